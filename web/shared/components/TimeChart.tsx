// Lines over time, drawn by uPlot on a canvas: cheap enough for a tablet. What is missing is a gap, never a line across it.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useSettings } from "../i18n";
import { clock, number } from "../format";
import "./chart.css";

/** Seconds since 1970, then one row of values for each line; `null` is missing. */
export type ChartData = [number[], ...(number | null)[][]];

export interface ChartLine {
  readonly label: string;
  /** A token of theme.css, without the dashes: `chart-1`, `anomalous`. */
  readonly color: string;
  readonly dash?: number[];
  readonly width?: number;
}

export interface ChartBand {
  /** Numbers of two lines (from 1) with a filled area between them. */
  readonly between: [number, number];
  readonly color: string;
}

export interface TimeChartProps {
  readonly title: string;
  readonly unit?: string;
  readonly data: ChartData;
  readonly lines: readonly ChartLine[];
  readonly bands?: readonly ChartBand[];
  readonly height?: number;
  /** Width of the visible time in seconds; without, all that is there. */
  readonly spanS?: number;
  readonly range?: [number, number];
  /** Longer ranges show dates rather than seconds. */
  readonly days?: boolean;
}

const token = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function TimeChart(props: TimeChartProps) {
  const { language, theme } = useSettings();
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const latest = useRef(props);
  latest.current = props;
  const shape = JSON.stringify([props.title, props.unit, props.lines, props.bands, props.height, props.spanS, props.days]);

  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const { lines, bands = [], height = 120, spanS, days } = latest.current;
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis: uPlot.Axis = {
      stroke: token("ink-2"),
      font,
      grid: { stroke: token("chart-grid"), width: 1 },
      ticks: { show: false },
    };
    const chart = new uPlot(
      {
        width: element.clientWidth || 300,
        height,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 24, 0, 0],
        scales: {
          x: {
            time: true,
            ...(spanS
              ? { range: (_: uPlot, __: number | null, max: number | null): uPlot.Range.MinMax => [(max ?? 0) - spanS, max ?? spanS] }
              : {}),
          },
          y: {
            range: (_: uPlot, low: number | null, high: number | null): uPlot.Range.MinMax => {
              const fixed = latest.current.range;
              if (fixed) return fixed;
              if (low === null || high === null) return [0, 1];
              const room = Math.max((high - low) * 0.1, 0.05);
              return [low - room, high + room];
            },
          },
        },
        axes: [
          {
            ...axis,
            size: 26,
            space: 70,
            ...(days ? {} : { values: (_, ticks) => ticks.map((s) => clock(language, s * 1e9, (spanS ?? 3600) < 600)) }),
          },
          { ...axis, size: 46, space: 28, values: (_, ticks) => ticks.map((v) => number(language, v, Math.abs(v) < 10 && v % 1 ? 1 : 0)) },
        ],
        series: [
          {},
          ...lines.map((line) => ({
            label: line.label,
            stroke: token(line.color),
            width: line.width ?? 1.5,
            ...(line.dash ? { dash: line.dash } : {}),
            points: { show: false },
            spanGaps: false,
          })),
        ],
        bands: bands.map((band) => ({ series: band.between, fill: token(band.color) })),
      },
      latest.current.data,
      element,
    );
    plot.current = chart;
    const resize = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      chart.destroy();
      plot.current = undefined;
    };
  }, [shape, language, theme]);

  useEffect(() => plot.current?.setData(props.data), [props.data]);

  return (
    <figure class="chart">
      <figcaption class="row spread">
        <span>
          <strong>{props.title}</strong> {props.unit && <span class="quiet">{props.unit}</span>}
        </span>
        <span class="chart-legend" aria-hidden="true">
          {props.lines.filter((line) => line.label).map((line) => (
            <span key={line.label}>
              <i style={{ background: `var(--${line.color})` }} />
              {line.label}
            </span>
          ))}
        </span>
      </figcaption>
      <div class="chart-host" ref={host} role="img" aria-label={props.title} />
    </figure>
  );
}
