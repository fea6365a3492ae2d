// The desk: who is here, which view, and what is kept between views.
import { useCallback, useEffect, useState } from "preact/hooks";
import { ApiError, api, onUnauthorised } from "@shared/api";
import { Button, Notice } from "@shared/components/controls";
import { Brand, Shell } from "@shared/components/Shell";
import { useSettings } from "@shared/i18n";
import { Calendar } from "./Calendar";
import { EpisodeList } from "./EpisodeList";
import { EpisodeView } from "./EpisodeView";
import { reviewerOf } from "./names";
import { People } from "./People";
import { PersonView } from "./PersonView";
import { type Route, linkTo, useRoute } from "./route";
import { SignIn } from "./SignIn";
import type { Session } from "./types";
import { WORDS } from "./words";

export function Desk() {
  const { language } = useSettings();
  const words = WORDS[language];
  const route = useRoute();
  const [session, change] = useState<Session>();
  const [lost, lose] = useState(false);
  const ask = useCallback(() => {
    api.get<Session>("v1/session").then(
      (found) => {
        lose(false);
        change(found);
      },
      (error: unknown) => lose(error instanceof ApiError),
    );
  }, []);
  useEffect(ask, [ask]);
  // Whoever is no longer known is asked to sign in again; the view stays in the address.
  useEffect(() => onUnauthorised(() => change((was) => (was ? { ...was, authorised: false, may_read: false } : was))), []);
  useEffect(() => {
    document.title = `${words.say("desk")} · kinedge`;
  }, [words]);

  const leave = (): void => {
    api.post<Session>("v1/session/end", {}).then(change, ask);
  };
  const inside = session?.authorised && session.may_read;
  return (
    <Shell
      brand={<Brand name={words.say("desk")} />}
      status={inside ? <Views route={route} /> : null}
      actions={
        inside && (session.by_token || session.by_provider) ? (
          <>
            <span class="quiet small who">{words.say("signed_in_as", { name: reviewerOf(words, session.name) })}</span>
            <Button kind="ghost" onClick={leave}>
              {words.say("sign_out")}
            </Button>
          </>
        ) : null
      }
    >
      {lost && (
        <div class="stack">
          <Notice kind="lost" icon="offline">
            {words.say("error_unreachable")}
          </Notice>
          <Button onClick={ask}>{words.say("try_again")}</Button>
        </div>
      )}
      {!lost && session && !inside && <SignIn session={session} onDone={change} />}
      {!lost && inside && <View route={route} session={session} />}
    </Shell>
  );
}

function View({ route, session }: { route: Route; session: Session }) {
  switch (route.view) {
    case "calendar":
      return <Calendar />;
    case "people":
      return <People />;
    case "person":
      return <PersonView key={route.subject} subject={route.subject} />;
    case "episode":
      return <EpisodeView key={route.id} id={route.id} mayReview={session.may_review} />;
    default:
      return <EpisodeList filters={route.filters} />;
  }
}

function Views({ route }: { route: Route }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const here = { episode: "list", person: "people", list: "list", calendar: "calendar", people: "people" }[route.view];
  const views = [
    ["list", linkTo.list(), words.say("view_list")],
    ["calendar", linkTo.calendar, words.say("view_calendar")],
    ["people", linkTo.people, words.say("view_people")],
  ] as const;
  return (
    <nav class="views" aria-label={words.say("views")}>
      {views.map(([view, link, text]) => (
        <a key={view} href={link} {...(here === view ? { "aria-current": "page" as const } : {})}>
          {text}
        </a>
      ))}
    </nav>
  );
}
