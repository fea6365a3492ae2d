// A person with their sensors: where the surprise is (filled, larger), where there is doubt (hatched), where nothing is heard.
// The list beside the figure says the same in words, and is what a screen reader reads.
import { useId } from "preact/hooks";
import { partOf, positionOf } from "../body";
import { percent } from "../format";
import { dictionary, useSettings } from "../i18n";
import "./body.css";

const WORDS = dictionary({
  body_front: { en: "Seen from the front", fr: "Vu de face" },
  body_right: { en: "R", fr: "D" },
  body_left: { en: "L", fr: "G" },
  body_share: { en: "{share} of what is unusual", fr: "{share} de ce qui est inhabituel" },
  body_doubt: { en: "in doubt", fr: "en doute" },
  body_silent: { en: "nothing is heard", fr: "aucun signal" },
  body_quiet: { en: "nothing unusual", fr: "rien d’inhabituel" },
});

export interface BodySensor {
  readonly name: string;
  /** What people call the place. */
  readonly label: string;
  /** Part of the surprise, 0 to 1; null where none is claimed. */
  readonly share: number | null;
  readonly doubt: boolean;
  readonly silent: boolean;
}

export function BodyFigure({ sensors }: { sensors: readonly BodySensor[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const hatch = useId();
  const most = Math.max(0, ...sensors.map((s) => s.share ?? 0));
  const say = (sensor: BodySensor): string =>
    sensor.silent
      ? words.say("body_silent")
      : sensor.doubt
        ? words.say("body_doubt")
        : sensor.share === null
          ? words.say("body_quiet")
          : words.say("body_share", { share: percent(language, sensor.share) });
  return (
    <figure class="body">
      <svg viewBox="0 0 200 410" aria-hidden="true" focusable="false">
        <defs>
          <pattern id={hatch} width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
            <rect width="6" height="6" class="body-hatch-back" />
            <rect width="2" height="6" class="body-hatch-line" />
          </pattern>
        </defs>
        <g class="body-shape">
          <circle cx="100" cy="36" r="23" />
          <path d="M92 54h16v22H92Z" />
          <path d="M72 78q28-10 56 0q10 4 9 18l-7 58q-2 20 1 52q0 12-10 12H79q-10 0-10-12q3-32 1-52l-7-58q-1-14 9-18Z" />
          <path class="body-limb" d="M70 90Q56 118 50 148T36 208" stroke-width="19" />
          <path class="body-limb" d="M130 90Q144 118 150 148T164 208" stroke-width="19" />
          <path class="body-limb" d="M84 208Q80 262 80 296T78 370" stroke-width="25" />
          <path class="body-limb" d="M116 208Q120 262 120 296T122 370" stroke-width="25" />
          <path class="body-limb" d="M77 376 70 388M123 376 130 388" stroke-width="18" />
          <circle cx="34" cy="219" r="9" />
          <circle cx="166" cy="219" r="9" />
        </g>
        <text class="body-side" x="8" y="24">
          {words.say("body_right")}
        </text>
        <text class="body-side" x="192" y="24" text-anchor="end">
          {words.say("body_left")}
        </text>
        {sensors.map((sensor) => {
          const part = partOf(sensor.name);
          if (!part) return null;
          const [x, y] = positionOf(part);
          const share = sensor.share ?? 0;
          const kind = sensor.silent ? "silent" : sensor.doubt ? "doubt" : sensor.share !== null && share > 0 ? "share" : "quiet";
          const radius = kind === "share" ? 9 + 8 * share : 10;
          return (
            <g key={sensor.name} class={`body-sensor body-${kind}`} data-sensor={sensor.name} data-highlight={kind === "share" && share === most}>
              {kind === "share" && share === most && <circle class="body-halo" cx={x} cy={y} r={radius + 7} />}
              <circle
                cx={x}
                cy={y}
                r={radius}
                {...(kind === "doubt" ? { fill: `url(#${hatch})` } : {})}
                {...(kind === "share" ? { "fill-opacity": 0.25 + 0.75 * share } : {})}
              />
              {kind === "silent" && <path d={`M${x - 4} ${y - 4}l8 8m0-8l-8 8`} />}
              {kind === "doubt" && (
                <text x={x} y={y + 5} text-anchor="middle">
                  ?
                </text>
              )}
            </g>
          );
        })}
      </svg>
      <figcaption>
        <p class="small quiet">{words.say("body_front")}</p>
        <ul class="body-list">
          {[...sensors]
            .sort((a, b) => (b.share ?? -1) - (a.share ?? -1))
            .map((sensor) => (
              <li key={sensor.name} class={sensor.share !== null && sensor.share === most && most > 0 ? "body-most" : ""}>
                <strong>{sensor.label}</strong>
                <span>{say(sensor)}</span>
                {sensor.share !== null && !sensor.silent && (
                  <span class="body-share-track" aria-hidden="true">
                    <span style={{ width: `${Math.round(sensor.share * 100)}%` }} />
                  </span>
                )}
              </li>
            ))}
        </ul>
      </figcaption>
    </figure>
  );
}
