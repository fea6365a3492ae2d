// One episode: what is said of it, what the sensors saw, every answer on the way, what it rests on, and what people say.
import { useCallback, useEffect, useState } from "preact/hooks";
import { announce, useFocusOnOpen } from "@shared/a11y";
import { BodyFigure } from "@shared/components/BodyFigure";
import { DecisionMark } from "@shared/components/Decision";
import { Icon } from "@shared/components/Icon";
import { Notice } from "@shared/components/controls";
import { duration, moment, percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { ChangeCard } from "./ChangeCard";
import { Failed, Loading, StatusMark } from "./marks";
import { placeOf, promiseOf, quantityOf } from "./names";
import { useResource } from "./resource";
import { ReviewCard } from "./ReviewCard";
import { linkTo, listSeenLast } from "./route";
import { Signals } from "./Signals";
import { Trail } from "./Trail";
import type { Envelope, EpisodeAnswer } from "./types";
import { WhyUnsure } from "./WhyUnsure";
import { WORDS } from "./words";

const ENDINGS = ["as_usual", "unclear", "sensor_lost", "stopped", "restarted", "length_limit", "ongoing"] as const;

export function EpisodeView({ id, mayReview }: { id: string; mayReview: boolean }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const found = useResource<EpisodeAnswer>(`v1/desk/episodes/${id}`);
  const [kept, keep] = useState<EpisodeAnswer>();
  const answer = found.data ?? kept; // while it is asked for again after a review, what is there stays
  useEffect(() => {
    if (found.data) keep(found.data);
  }, [found.data]);
  const title = useFocusOnOpen<HTMLHeadingElement>(answer !== undefined);
  if (found.error && !answer) return <Failed error={found.error} again={found.again} />;
  if (!answer) return <Loading />;
  const { line, envelope, reviews, earlier, later } = answer;
  const ending = ENDINGS.find((e) => e === envelope.ended);
  return (
    <article class="episode" data-status={line.status} data-id={id}>
      <header class="episode-head">
        <div class="row spread">
          <a class="back" href={listSeenLast.get()}>
            <Icon name="back" size={18} /> {words.say("view_list")}
          </a>
          <nav class="row" aria-label={words.say("episode_of", { subject: line.subject })}>
            {earlier && (
              <a class="chip" rel="prev" href={linkTo.episode(earlier)}>
                <Icon name="back" size={15} /> {words.say("earlier_of")}
              </a>
            )}
            {later && (
              <a class="chip" rel="next" href={linkTo.episode(later)}>
                {words.say("later_of")} <Icon name="forward" size={15} />
              </a>
            )}
          </nav>
        </div>
        <div class="row marks">
          <DecisionMark decision={line.decision} large />
          <StatusMark status={line.status} />
        </div>
        <h1 ref={title} tabIndex={-1}>
          {words.pick(line.sentence)}
        </h1>
        <p class="line-about quiet">
          <a href={linkTo.person(line.subject)}>{line.subject}</a>
          <span>{moment(language, line.start_utc_ns)}</span>
          {!envelope.change && <span>{words.say("lasted", { time: duration((line.end_utc_ns - line.start_utc_ns) / 1e9) })}</span>}
          {ending && <span>{words.say(`ended_${ending}`)}</span>}
          <span>
            {line.site} · {line.gateway}
          </span>
        </p>
      </header>
      <div class="episode-columns">
        <div class="episode-main">
          {envelope.change && <ChangeCard change={envelope.change} subject={line.subject} sensors={envelope.sensors} />}
          {!envelope.change && <Signals id={id} envelope={envelope} hasRaw={line.has_raw} />}
          {envelope.trail.length > 0 && <Trail envelope={envelope} />}
          {!envelope.change && <WhyUnsure envelope={envelope} />}
        </div>
        <div class="episode-side">
          <ReviewCard id={id} status={line.status} reviews={reviews} mayReview={mayReview} onDone={found.again} />
          {!envelope.change && envelope.contributions.length > 0 && <Where envelope={envelope} />}
          <Provenance answer={answer} />
        </div>
      </div>
    </article>
  );
}

function Where({ envelope }: { envelope: Envelope }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const channels = envelope.contributions.filter((c) => c.channel !== null).slice(0, 6);
  const shares = new Map(envelope.contributions.filter((c) => c.channel === null).map((c) => [c.sensor, c.share]));
  const silent = new Set((envelope.abstentions ?? []).filter((a) => a.code === "no_data").map((a) => a.sensor));
  return (
    <section class="card stack" aria-labelledby="where">
      <h2 id="where">{words.say("where")}</h2>
      <p class="quiet small">{words.say("where_hint")}</p>
      <BodyFigure
        sensors={envelope.sensors.map((name) => ({
          name,
          label: placeOf(words, name),
          share: shares.get(name) ?? null,
          doubt: false,
          silent: silent.has(name) && !(shares.get(name) ?? 0),
        }))}
      />
      <ul class="shares">
        {channels.map((c) => (
          <li key={`${c.sensor}.${c.channel}`}>
            <span>
              {placeOf(words, c.sensor)}, {quantityOf(words, c.channel ?? "")} {(c.channel ?? "").slice(-1)}
            </span>
            <span class="share-track" aria-hidden="true">
              <span style={{ width: `${Math.round(c.share * 100)}%` }} />
            </span>
            <strong>{percent(language, c.share)}</strong>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Provenance({ answer: { line, envelope } }: { answer: EpisodeAnswer }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const promised = envelope.promised ? promiseOf(words, envelope.promised) : null; // an older gateway tells it in English only
  return (
    <section class="card stack" aria-labelledby="provenance">
      <h2 id="provenance">{words.say("provenance")}</h2>
      {(envelope.unsigned ?? []).map((what) => (
        <Notice key={what} kind="warning" icon="info">
          {words.say(what === "model" ? "unsigned_model" : "unsigned_enrolment")}
        </Notice>
      ))}
      <dl class="facts">
        <Digest name={words.say(envelope.change ? "definition" : "model")} value={envelope.model_digest} />
        <Digest name={words.say("configuration")} value={envelope.config_digest} />
        {envelope.enrolment_digest ? (
          <Digest name={words.say("enrolment")} value={envelope.enrolment_digest} />
        ) : (
          !envelope.change && (
            <div>
              <dt>{words.say("enrolment")}</dt>
              <dd>{words.say("cohort")}</dd>
            </div>
          )
        )}
        {envelope.raw && <Digest name={words.say("raw_digest")} value={envelope.raw.sha256} />}
        <Digest name={words.say("episode_id")} value={envelope.id} />
        {envelope.promise && (
          <div>
            <dt>{words.say("promise")}</dt>
            {promised ? <dd>{promised}</dd> : <dd lang="en">{envelope.promise}</dd>}
          </div>
        )}
        <div>
          <dt>{words.say("sequence")}</dt>
          <dd>{line.sequence}</dd>
        </div>
        <div>
          <dt>{words.say("received")}</dt>
          <dd>{moment(language, line.received_utc_ns)}</dd>
        </div>
        <div>
          <dt>{words.say("version")}</dt>
          <dd>{envelope.kinedge_version}</dd>
        </div>
      </dl>
      <h3>{words.say("export")}</h3>
      <p class="exports">
        <a class="chip" href={`v1/episodes/${line.id}`} download={`${line.id.slice(0, 12)}.json`}>
          <Icon name="download" size={15} /> {words.say("envelope")}
        </a>
        {line.has_raw && (
          <a class="chip" href={`v1/episodes/${line.id}/raw`} download={`${line.id.slice(0, 12)}.npz`}>
            <Icon name="download" size={15} /> {words.say("raw_file")}
          </a>
        )}
        <a class="chip" href={`v1/episodes/${line.id}/fhir`} download={`${line.id.slice(0, 12)}.fhir.json`}>
          <Icon name="download" size={15} /> {words.say("fhir_file")}
        </a>
      </p>
    </section>
  );
}

function Digest({ name, value }: { name: string; value: string }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [done, change] = useState(false);
  const copy = useCallback(() => {
    const clipboard = navigator.clipboard as Clipboard | undefined; // over plain http there is none
    if (!clipboard) return;
    clipboard.writeText(value).then(
      () => {
        change(true);
        announce("copy", words.say("copied"));
        setTimeout(() => change(false), 2000);
      },
      () => undefined, // a browser that forbids it; the digest can be selected
    );
  }, [value, words]);
  return (
    <div>
      <dt>{name}</dt>
      <dd class="digest">
        <code title={value}>
          {value.slice(0, 8)}…{value.slice(-6)}
        </code>
        <button type="button" class="icon-button small-button" onClick={copy} aria-label={words.say("copy", { what: name })}>
          <Icon name={done ? "check" : "copy"} size={16} />
        </button>
      </dd>
    </div>
  );
}
