// A score over the last minutes, small: the band is the person's usual, the line stops where there was no answer.
export interface SparkPoint {
  readonly t: number;
  readonly y: number | null;
}

interface SparklineProps {
  readonly points: readonly SparkPoint[];
  /** Newest time and width of the picture, in the unit of `t`. */
  readonly end: number;
  readonly span: number;
  /** A longer pause than this is a gap. */
  readonly gap: number;
  readonly band: { readonly median: number; readonly high: number };
}

const WIDTH = 240;
const HEIGHT = 44;

export function Sparkline({ points, end, span, gap, band }: SparklineProps) {
  const top = Math.max(band.high * 2.2, ...points.map((p) => p.y ?? 0));
  const bottom = Math.min(band.median - 0.4 * (band.high - band.median), ...points.map((p) => p.y ?? 0));
  const x = (t: number): number => WIDTH - ((end - t) / span) * WIDTH;
  const y = (value: number): number => 2 + (1 - (value - bottom) / (top - bottom || 1)) * (HEIGHT - 4);
  let path = "";
  let last: number | null = null;
  for (const point of points) {
    if (point.t < end - span || point.y === null) {
      last = null;
      continue;
    }
    path += `${last !== null && point.t - last <= gap ? "L" : "M"}${x(point.t).toFixed(1)} ${y(point.y).toFixed(1)}`;
    last = point.t;
  }
  return (
    <svg class="sparkline" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true" focusable="false">
      <rect class="sparkline-band" x="0" width={WIDTH} y={y(band.high)} height={Math.max(1, HEIGHT - y(band.high))} />
      <path class="sparkline-line" d={path} vector-effect="non-scaling-stroke" />
    </svg>
  );
}
