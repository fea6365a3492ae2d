// A decision is always a word, a shape and a colour together; "unsure" is hatched besides. Never colour alone.
import type { Belief, Decision } from "../types";
import { dictionary, useSettings } from "../i18n";
import { percent } from "../format";
import { Icon } from "./Icon";
import "./decision.css";

const WORDS = dictionary({});

export function DecisionMark({ decision, large = false }: { decision: Decision; large?: boolean }) {
  const { language } = useSettings();
  return (
    <span class={`decision decision-${decision}${large ? " decision-large" : ""}`}>
      <Icon name={decision} size={large ? 26 : 18} />
      <span>{WORDS[language].say(decision)}</span>
    </span>
  );
}

/** How much of the belief goes to each answer. The words beside it say the same in numbers. */
export function BeliefBar({ belief, legend = false, label }: { belief: Belief; legend?: boolean; label?: string }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const kinds = ["normal", "unsure", "anomalous"] as const;
  const share = {
    normal: percent(language, belief.normal),
    unsure: percent(language, belief.unsure),
    anomalous: percent(language, belief.anomalous),
  };
  return (
    <div class="belief">
      <div class="belief-bar" role="img" aria-label={`${label ?? words.say("belief")}: ${words.say("belief_text", share)}`}>
        {kinds.map((kind) => (
          <span key={kind} class={`belief-part fill-${kind}`} style={{ flexGrow: belief[kind] }} />
        ))}
      </div>
      {legend && (
        <ul class="belief-legend" aria-hidden="true">
          {kinds.map((kind) => (
            <li key={kind}>
              <span class={`swatch fill-${kind}`} />
              {words.say(kind)} <strong>{share[kind]}</strong>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
