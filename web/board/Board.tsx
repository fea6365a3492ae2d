// The board's page: signs in where that is needed, keeps one stream open, shows one of three views.
import { useEffect, useRef, useState } from "preact/hooks";
import { announce } from "@shared/a11y";
import { ApiError, api, onUnauthorised } from "@shared/api";
import { Button, Notice } from "@shared/components/controls";
import { Icon } from "@shared/components/Icon";
import { Brand, Shell } from "@shared/components/Shell";
import { clock } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Gateway } from "./Gateway";
import { Login } from "./Login";
import { PersonView } from "./PersonView";
import { linkTo, type Route, useRoute } from "./route";
import { type BoardStore, useStore } from "./store";
import type { Session } from "./types";
import { Wall } from "./Wall";
import { WORDS, type Speaker } from "./words";
import "./board.css";

export function Board() {
  const { language } = useSettings();
  const words = WORDS[language];
  const board = useStore();
  const route = useRoute();
  const [session, setSession] = useState<Session | null>(null);
  const subject = route.view === "person" ? route.subject : null;
  const open = session !== null && (session.authorised || !session.needs_token);

  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    const ask = (): void => {
      api.get<Session>("api/session").then(setSession, (error: unknown) => {
        if (!(error instanceof ApiError)) throw error;
        board.connection = "lost";
        board.changed();
        timer = setTimeout(ask, 2000);
      });
    };
    ask();
    const off = onUnauthorised(() => {
      board.stop();
      setSession((known) => (known ? { ...known, needs_token: true, authorised: false } : known));
    });
    return () => {
      clearTimeout(timer);
      off();
    };
  }, [board]);

  useEffect(() => {
    if (!open) return;
    board.open(subject);
    return () => board.stop();
  }, [board, open, subject]);

  const gateway = board.state?.gateway ?? "kinedge";
  useEffect(() => {
    document.title = subject === null ? `${gateway} · kinedge` : `${subject} · ${gateway} · kinedge`;
  }, [gateway, subject]);

  useSpokenConnection(board, words);

  const logout = (): void => {
    api.post("api/logout", {}).then(
      () => setSession((known) => (known ? { ...known, authorised: false } : known)),
      () => undefined,
    );
  };
  return (
    <Shell
      brand={<Brand name="kinedge" />}
      status={open && <Status board={board} words={words} />}
      actions={
        open && (
          <>
            <Views route={route} words={words} />
            {session.needs_token && (
              <Button kind="ghost" onClick={logout}>
                {words.say("logout")}
              </Button>
            )}
          </>
        )
      }
    >
      {session && !open ? (
        <Login onDone={() => setSession({ ...session, authorised: true })} />
      ) : (
        <>
          {board.connection === "lost" && (
            <Notice kind="lost" icon="offline">
              {board.heardMs
                ? words.say("lost_text", { time: clock(language, board.heardMs * 1e6, true) })
                : words.say("lost_never")}
            </Notice>
          )}
          <View route={route} board={board} words={words} />
        </>
      )}
    </Shell>
  );
}

function View({ route, board, words }: { route: Route; board: BoardStore; words: Speaker }) {
  if (!board.state) return board.connection === "lost" ? null : <p class="quiet">{words.say("loading")}</p>;
  if (route.view === "person") return <PersonView key={route.subject} subject={route.subject} board={board} state={board.state} />;
  if (route.view === "board") return <Gateway board={board} state={board.state} />;
  return <Wall board={board} state={board.state} />;
}

function Views({ route, words }: { route: Route; words: Speaker }) {
  return (
    <nav class="views" aria-label={words.say("views")}>
      <a href={linkTo.wall} aria-current={route.view === "board" ? undefined : "page"}>
        {words.say("people")}
      </a>
      <a href={linkTo.board} aria-current={route.view === "board" ? "page" : undefined}>
        {words.say("board")}
      </a>
    </nav>
  );
}

function Status({ board, words }: { board: BoardStore; words: Speaker }) {
  const outbox = board.state?.outbox;
  const connection = board.connection === "open" ? "live" : board.connection;
  return (
    <>
      <span class={`connection connection-${board.connection}`} data-connection={board.connection}>
        <span class="connection-dot" aria-hidden="true" />
        {words.say(connection)}
      </span>
      {board.state && (
        <span class="quiet">
          {board.state.site} · {board.state.gateway}
        </span>
      )}
      {outbox && (
        <span class="row status-outbox" data-outbox={outbox.state}>
          <Icon name={outbox.state === "off" ? "offline" : "sync"} size={17} />
          {outboxText(outbox, words)}
        </span>
      )}
    </>
  );
}

export function outboxText(outbox: NonNullable<BoardStore["state"]>["outbox"], words: Speaker): string {
  if (outbox.state === "off") return words.say("outbox_off");
  const waiting = outbox.waiting_episodes ? words.count("waiting", outbox.waiting_episodes) : words.say("all_sent");
  const sync =
    outbox.last_sync_utc_ns === null
      ? words.say("never_synced")
      : words.say("last_sync", { time: clock(words.language, outbox.last_sync_utc_ns) });
  return `${waiting}, ${sync}`;
}

function useSpokenConnection(board: BoardStore, words: Speaker): void {
  const before = useRef(board.connection);
  const wasLost = useRef(false);
  useEffect(() => {
    if (before.current === board.connection) return;
    before.current = board.connection;
    if (board.connection === "lost") wasLost.current = true;
    if (board.connection === "open" && wasLost.current) {
      wasLost.current = false;
      announce("connection", words.say("back_again"));
    }
  });
}
