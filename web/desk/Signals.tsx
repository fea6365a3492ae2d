// The raw samples: where the surprise starts first and strong, the rest pale; gaps stay gaps.
import { useMemo } from "preact/hooks";
import { percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Loading } from "./marks";
import { placeOf, quantityOf } from "./names";
import { Plot, type PlotData } from "./Plot";
import { useResource } from "./resource";
import type { Envelope, Series, SeriesChannel } from "./types";
import { WORDS } from "./words";

const COLORS = ["chart-1", "chart-2", "chart-3"];
const STRONG = 0.08; // a channel with so much of the surprise is drawn strong

interface Group {
  readonly key: string;
  readonly sensor: string;
  readonly channels: readonly SeriesChannel[];
  readonly share: number;
}

export function Signals({ id, envelope, hasRaw }: { id: string; envelope: Envelope; hasRaw: boolean }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const series = useResource<Series>(hasRaw ? `v1/episodes/${id}/series?points=900` : null);
  const share = useMemo(
    () => new Map(envelope.contributions.filter((c) => c.channel !== null).map((c) => [`${c.sensor}.${c.channel}`, c.share])),
    [envelope],
  );
  const groups = useMemo(() => {
    const ofSensor = new Map(envelope.contributions.filter((c) => c.channel === null).map((c) => [c.sensor, c.share]));
    const found = series.data ? groupsOf(series.data, share) : [];
    return found.sort((a, b) => (ofSensor.get(b.sensor) ?? 0) - (ofSensor.get(a.sensor) ?? 0) || b.share - a.share);
  }, [series.data, share, envelope]);
  const start = envelope.trail.find((p) => p.decision === "anomalous")?.wall_time_utc_ns ?? envelope.start_utc_ns;
  const strong = groups.filter((g) => g.share >= STRONG);
  const first = strong.length ? strong : groups.slice(0, 1);
  const others = groups.filter((g) => !first.includes(g));
  const draw = (group: Group) => (
    <GroupPlot
      key={group.key}
      group={group}
      series={series.data as Series}
      share={share}
      shade={[envelope.start_utc_ns / 1e9, envelope.end_utc_ns / 1e9]}
      mark={{ at: Math.min(start, envelope.end_utc_ns) / 1e9 - blockS(envelope, start), text: words.say("surprise_starts") }}
    />
  );
  return (
    <section class="card stack" aria-labelledby="signals">
      <h2 id="signals">{words.say("signals")}</h2>
      {!hasRaw && <p class="quiet">{words.say("signals_none")}</p>}
      {series.error && <p class="quiet">{words.say("signals_unreadable")}</p>}
      {hasRaw && !series.data && !series.error && <Loading />}
      {series.data && (
        <>
          <p class="quiet small">
            {words.say("signals_hint")} {words.say("shaded")}
          </p>
          {first.map(draw)}
          {others.length > 0 && (
            <details>
              <summary>{words.say("signals_more")}</summary>
              <div class="stack details-body">{others.map(draw)}</div>
            </details>
          )}
        </>
      )}
    </section>
  );
}

/** The first answer that noticed is about the block before it; the episode begins with that block. */
function blockS(envelope: Envelope, noticed: number): number {
  return Math.max(0, (Math.min(noticed, envelope.end_utc_ns) - envelope.start_utc_ns) / 1e9);
}

function groupsOf(series: Series, share: ReadonlyMap<string, number>): Group[] {
  const found = new Map<string, SeriesChannel[]>();
  for (const channel of series.channels) {
    const key = `${channel.sensor}.${channel.channel.slice(0, 3)}`;
    found.set(key, [...(found.get(key) ?? []), channel]);
  }
  return [...found]
    .map(([key, channels]) => ({
      key,
      channels,
      sensor: channels[0]?.sensor ?? "",
      share: channels.reduce((sum, c) => sum + (share.get(`${c.sensor}.${c.channel}`) ?? 0), 0),
    }));
}

interface GroupPlotProps {
  group: Group;
  series: Series;
  share: ReadonlyMap<string, number>;
  shade: [number, number];
  mark: { at: number; text: string };
}

function GroupPlot({ group, series, share, shade, mark }: GroupPlotProps) {
  const { language } = useSettings();
  const words = WORDS[language];
  const data = useMemo(() => linesOf(series, group.channels), [series, group]);
  const name = `${placeOf(words, group.sensor)}, ${quantityOf(words, group.channels[0]?.channel ?? "")}`;
  const of = (c: SeriesChannel): number => share.get(`${c.sensor}.${c.channel}`) ?? 0;
  const most = Math.max(...group.channels.map(of));
  const missing = Math.max(...group.channels.map((c) => c.missing.reduce((a, b) => a + b, 0) / (c.missing.length || 1)));
  const stands = (c: SeriesChannel): boolean => of(c) > 0 && (of(c) >= STRONG || of(c) === most);
  const told = group.share > 0 ? words.say("most_of_it", { share: percent(language, group.share) }) : "";
  return (
    <figure class="signal" data-group={group.key} data-highlight={group.share >= STRONG}>
      <figcaption class="row spread">
        <span>
          <strong>{name}</strong> <span class="quiet">{group.channels[0]?.unit}</span>
          {missing > 0.002 && <span class="doubt"> {words.say("missing_share", { share: percent(language, missing) })}</span>}
        </span>
        <span class="signal-legend">
          {group.channels.map((c, i) => (
            <span key={c.channel} class={stands(c) ? "stands" : "quiet"}>
              <i style={{ background: `var(--${COLORS[i % 3]})`, opacity: stands(c) || most === 0 ? 1 : 0.45 }} />
              {c.channel.slice(-1)}
              {stands(c) && ` ${percent(language, of(c))}`}
            </span>
          ))}
          {told && <span class="told">{told}</span>}
        </span>
      </figcaption>
      <Plot
        label={`${name}${told && `: ${told}`}`}
        data={data}
        height={group.share >= STRONG ? 170 : 120}
        shade={shade}
        mark={mark}
        lines={group.channels.map((c, i) => ({
          color: COLORS[i % 3] as string,
          width: stands(c) ? 2 : 1,
          alpha: stands(c) || most === 0 ? 1 : 0.4,
        }))}
      />
    </figure>
  );
}

/** Lowest and highest of each stretch, one after the other, so that a peak of one sample is seen; null where nothing came. */
function linesOf(series: Series, channels: readonly SeriesChannel[]): PlotData {
  const each = series.samples_per_point;
  const n = channels[0]?.low.length ?? 0;
  const times: number[] = [];
  const start = series.start_utc_ns / 1e9;
  const single = each === 1;
  for (let i = 0; i < n; i += 1) {
    const t = start + (i * each) / series.rate_hz;
    times.push(t);
    if (!single) times.push(t + each / 2 / series.rate_hz);
  }
  const lines = channels.map((c) => {
    const line: (number | null)[] = [];
    for (let i = 0; i < n; i += 1) {
      line.push(c.low[i] ?? null);
      if (!single) line.push(c.high[i] ?? null);
    }
    return line;
  });
  return [times, ...lines];
}
