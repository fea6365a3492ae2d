// uPlot with what the shared chart does not have: marks and shades over the lines, points, bars, and one cursor for several charts.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useSettings } from "@shared/i18n";
import { clock, number } from "@shared/format";

export type PlotData = uPlot.AlignedData;

export interface PlotLine {
  readonly color: string;
  readonly width?: number;
  readonly dash?: number[];
  readonly alpha?: number;
  /** `line` (with gaps), `points` alone, `hollow` points, `bars`, or `none` (an edge of a band). */
  readonly as?: "line" | "points" | "hollow" | "bars" | "none";
}

export interface PlotProps {
  readonly label: string;
  readonly data: PlotData;
  readonly lines: readonly PlotLine[];
  readonly bands?: readonly { readonly between: [number, number]; readonly color: string }[];
  readonly height: number;
  readonly days?: boolean;
  /** Room before the first and after the last point. */
  readonly marginS?: number;
  readonly shade?: readonly [number, number] | null;
  readonly mark?: { readonly at: number; readonly text: string } | null;
  readonly range?: readonly [number | null, number | null];
  readonly level?: number;
  /** Numbers of two lines whose values are the ends of an interval, drawn as a whisker. */
  readonly whiskers?: readonly [number, number];
}

export const token = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const LEFT = 52;

export function Plot(props: PlotProps) {
  const { language, theme } = useSettings();
  const host = useRef<HTMLDivElement>(null);
  const latest = useRef(props);
  latest.current = props;
  const { lines, bands, height, days, shade, mark, range, level, whiskers, data } = props;
  const shape = JSON.stringify([lines, bands, height, days, shade, mark, range, level, whiskers]);

  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const now = latest.current;
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis: uPlot.Axis = { stroke: token("ink-2"), font, grid: { stroke: token("chart-grid"), width: 1 }, ticks: { show: false } };
    const locale = language === "fr" ? "fr-FR" : "en-GB";
    const date = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
    const bars = uPlot.paths.bars;
    const margin = now.days ? 43_200 : now.marginS;
    const chart = new uPlot(
      {
        width: element.clientWidth || 300,
        height: now.height,
        legend: { show: false },
        cursor: { show: false },
        padding: [10, now.days ? 22 : 24, 0, 0],
        scales: {
          x: {
            time: true,
            // a day is as wide as its bar: the first and the last have room for theirs
            ...(margin ? { range: (_: uPlot, low: number, high: number): uPlot.Range.MinMax => [low - margin, high + margin] } : {}),
          },
          y: {
            range: (_: uPlot, low: number | null, high: number | null): uPlot.Range.MinMax => {
              const [from, to] = now.range ?? [null, null];
              const room = Math.max(((high ?? 1) - (low ?? 0)) * 0.12, 1e-6);
              return [from ?? (low ?? 0) - room, to ?? (high ?? 1) + room];
            },
          },
        },
        axes: [
          {
            ...axis,
            size: 26,
            space: now.days ? 60 : 74,
            ...(now.days ? { incrs: [86400, 2 * 86400, 7 * 86400, 14 * 86400, 28 * 86400] } : {}),
            values: (_, ticks) => ticks.map((s) => (now.days ? date.format(s * 1000) : clock(language, s * 1e9, true))),
          },
          {
            ...axis,
            size: LEFT,
            space: 28,
            values: (_, ticks) => {
              const digits = [0, 1, 2].find((d) => ticks.every((v) => Math.abs(v * 10 ** d - Math.round(v * 10 ** d)) < 1e-6)) ?? 3;
              return ticks.map((v) => number(language, v, digits));
            },
          },
        ],
        series: [
          {},
          ...now.lines.map((line): uPlot.Series => {
            const stroke = token(line.color);
            const as = line.as ?? "line";
            return {
              stroke: as === "none" ? "transparent" : stroke,
              width: as === "none" ? 0 : (line.width ?? 1.5),
              alpha: line.alpha ?? 1,
              spanGaps: false,
              ...(line.dash ? { dash: line.dash } : {}),
              ...(as === "bars" && bars ? { paths: bars({ size: [0.72, 26] }), fill: stroke, width: 0 } : {}),
              ...(as === "points" || as === "hollow" ? { paths: () => null } : {}),
              points:
                as === "points" || as === "hollow"
                  ? { show: true, size: 8, width: 1.5, stroke, fill: as === "points" ? stroke : token("surface") }
                  : { show: false },
            };
          }),
        ],
        bands: (now.bands ?? []).map((band) => ({ series: band.between, fill: token(band.color) })),
        hooks: {
          drawClear: [
            (u) => {
              if (!now.shade) return;
              const [from, to] = now.shade.map((s) => u.valToPos(s, "x", true)) as [number, number];
              const left = Math.max(from, u.bbox.left);
              u.ctx.fillStyle = token("plot-shade");
              u.ctx.fillRect(left, u.bbox.top, Math.max(0, Math.min(to, u.bbox.left + u.bbox.width) - left), u.bbox.height);
            },
          ],
          draw: [
            (u) => {
              const { ctx, bbox } = u;
              ctx.save();
              ctx.textAlign = "left";
              if (now.whiskers) {
                const [low, high] = now.whiskers.map((i) => u.data[i]) as [(number | null)[], (number | null)[]];
                ctx.strokeStyle = token("line-strong");
                ctx.lineWidth = 1.5 * uPlot.pxRatio;
                ctx.beginPath();
                u.data[0].forEach((t, i) => {
                  const [from, to] = [low[i], high[i]];
                  if (from === null || from === undefined || to === null || to === undefined) return;
                  const x = u.valToPos(t, "x", true);
                  ctx.moveTo(x, u.valToPos(from, "y", true));
                  ctx.lineTo(x, u.valToPos(to, "y", true));
                });
                ctx.stroke();
              }
              if (now.level !== undefined) {
                const y = u.valToPos(now.level, "y", true);
                ctx.strokeStyle = token("line-strong");
                ctx.lineWidth = uPlot.pxRatio;
                ctx.setLineDash([4 * uPlot.pxRatio, 4 * uPlot.pxRatio]);
                ctx.beginPath();
                ctx.moveTo(bbox.left, y);
                ctx.lineTo(bbox.left + bbox.width, y);
                ctx.stroke();
              }
              if (now.mark) {
                const x = u.valToPos(now.mark.at, "x", true);
                ctx.strokeStyle = token("ink");
                ctx.lineWidth = 2 * uPlot.pxRatio;
                ctx.setLineDash([]);
                ctx.beginPath();
                ctx.moveTo(x, bbox.top);
                ctx.lineTo(x, bbox.top + bbox.height);
                ctx.stroke();
                ctx.fillStyle = token("ink");
                ctx.font = `600 ${12 * uPlot.pxRatio}px ${getComputedStyle(document.body).fontFamily}`;
                ctx.textBaseline = "top";
                ctx.fillText(now.mark.text, x + 5 * uPlot.pxRatio, bbox.top + 2 * uPlot.pxRatio);
              }
              ctx.restore();
            },
          ],
        },
      },
      now.data,
      element,
    );
    const resize = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: now.height }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      chart.destroy();
    };
  }, [shape, data, language, theme]);

  return <div class="plot" ref={host} role="img" aria-label={props.label} />;
}
