// Signing in: with the organisation's identity provider, or with the desk's token.
import { useId, useState } from "preact/hooks";
import { ApiError, api } from "@shared/api";
import { Button, Notice } from "@shared/components/controls";
import { useSettings } from "@shared/i18n";
import type { Session } from "./types";
import { WORDS } from "./words";

export function SignIn({ session, onDone }: { session: Session; onDone: (session: Session) => void }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [token, setToken] = useState("");
  const [name, setName] = useState("");
  const [error, setError] = useState("");
  const field = useId();
  const came = new URLSearchParams(location.search).get("sign-in");
  const send = (event: Event): void => {
    event.preventDefault();
    api.post<Session>("v1/session", { token, name }).then(onDone, (reason: unknown) => {
      if (!(reason instanceof ApiError)) throw reason;
      setError(reason.status === 401 || reason.status === 422 ? words.say("login_refused") : reason.status === 0 ? words.say("error_unreachable") : reason.message);
    });
  };
  return (
    <div class="card sign-in stack">
      <h1>{words.say("login_title")}</h1>
      {came && (
        <Notice kind="warning" icon="info">
          {words.say(came === "no-role" ? "login_no_role" : "login_cancelled")}
        </Notice>
      )}
      {session.by_provider && (
        <>
          <a class="button button-primary wide" href="v1/session/oidc">
            {words.say("login_provider")}
          </a>
          <p class="quiet or">{words.say("login_or")}</p>
        </>
      )}
      <form class="stack" onSubmit={send}>
        <div class="field">
          <label for={`${field}-token`}>{words.say("login_token")}</label>
          <input
            id={`${field}-token`}
            type="password"
            autocomplete="current-password"
            required
            value={token}
            aria-describedby={`${field}-hint ${field}-error`}
            aria-invalid={error !== ""}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
          <p id={`${field}-hint`} class="small quiet">
            {words.say("login_hint")}
          </p>
          <p id={`${field}-error`} class="field-error" role="alert">
            {error}
          </p>
        </div>
        <div class="field">
          <label for={`${field}-name`}>{words.say("login_name")}</label>
          <input
            id={`${field}-name`}
            type="text"
            autocomplete="off"
            maxLength={60}
            value={name}
            aria-describedby={`${field}-name-hint`}
            onInput={(event) => setName(event.currentTarget.value)}
          />
          <p id={`${field}-name-hint`} class="small quiet">
            {words.say("login_name_hint")}
          </p>
        </div>
        <Button type="submit" kind={session.by_provider ? "plain" : "primary"}>
          {words.say("login_go")}
        </Button>
      </form>
    </div>
  );
}
