// What people say of an episode: confirm, dismiss, comment; what was said before stays.
import { useId, useState } from "preact/hooks";
import { ApiError, api } from "@shared/api";
import { announce } from "@shared/a11y";
import { Button } from "@shared/components/controls";
import { moment } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { StatusMark } from "./marks";
import { reviewerOf } from "./names";
import type { Review, Status } from "./types";
import { WORDS } from "./words";

interface ReviewCardProps {
  id: string;
  status: Status;
  reviews: readonly Review[];
  mayReview: boolean;
  onDone: () => void;
}

export function ReviewCard({ id, status, reviews, mayReview, onDone }: ReviewCardProps) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [comment, setComment] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const field = useId();
  const send = (action: Review["action"]): void => {
    setBusy(true);
    setError("");
    api.post<{ status: Status }>(`v1/episodes/${id}/reviews`, { action, comment }).then(
      (done) => {
        setBusy(false);
        setComment("");
        announce("review", words.say("review_done", { status: words.say(`status_${done.status}`) }));
        onDone();
      },
      (reason: unknown) => {
        setBusy(false);
        if (reason instanceof ApiError)
          setError(words.say("review_failed", { why: reason.status === 0 ? words.say("error_unreachable") : reason.message }));
      },
    );
  };
  return (
    <section class="card stack review" aria-labelledby="review">
      <div class="row spread">
        <h2 id="review">{words.say("review")}</h2>
        <StatusMark status={status} />
      </div>
      {mayReview ? (
        <>
          <p>{words.say("review_question")}</p>
          <div class="field">
            <label for={field}>{words.say("comment")}</label>
            <textarea
              id={field}
              rows={3}
              maxLength={4000}
              value={comment}
              aria-describedby={`${field}-hint`}
              onInput={(event) => setComment(event.currentTarget.value)}
            />
            <p id={`${field}-hint`} class="quiet small">
              {words.say("comment_hint")}
            </p>
          </div>
          <p class="field-error" role="alert">
            {error}
          </p>
          <div class="review-actions">
            {status !== "confirmed" && (
              <Button kind="primary" icon="check" disabled={busy} onClick={() => send("confirm")}>
                {words.say("do_confirm")}
              </Button>
            )}
            {status !== "dismissed" && (
              <Button icon="cross" disabled={busy} onClick={() => send("dismiss")}>
                {words.say("do_dismiss")}
              </Button>
            )}
            {status !== "new" && (
              <Button icon="sync" disabled={busy} onClick={() => send("reopen")}>
                {words.say("do_reopen")}
              </Button>
            )}
            <Button kind="ghost" icon="comment" disabled={busy || !comment.trim()} onClick={() => send("comment")}>
              {words.say("do_comment")}
            </Button>
          </div>
        </>
      ) : (
        <p class="quiet">{words.say("only_reading")}</p>
      )}
      <h3>{words.say("history")}</h3>
      {!reviews.length && <p class="quiet">{words.say("nobody_said")}</p>}
      <ol class="history">
        {[...reviews].reverse().map((review) => (
          <li key={review.n}>
            <p>
              <strong>{reviewerOf(words, review.reviewer)}</strong> {words.say(`did_${review.action}`)}
              <span class="quiet small"> {moment(language, review.utc_ns)}</span>
            </p>
            {review.comment && <p class="said">{review.comment}</p>}
          </li>
        ))}
      </ol>
    </section>
  );
}
