package guest

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/grpc/codes"
)

// Times of the attempts of DialWait and WaitReady. A guest that boots may swallow a
// connection; only a new one is answered then. A guest so slow that each attempt ends
// before its answer comes gets more time with each.
const (
	waitFirstTry = 2 * time.Second
	waitLastTry  = 10 * time.Second
)

// DialWait is Dial for a guest that may still boot: it tries again until the agent has
// answered, ctx is done, or an error is not [Temporary]. If ctx is done, the error is
// that of the last attempt, and errors.Is finds the error of ctx too.
func DialWait(ctx context.Context, target string, cfg *Config) (*Guest, error) {
	var g *Guest
	err := untilAnswered(ctx, nil, func(ctx context.Context) (err error) {
		g, err = Dial(ctx, target, cfg)
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// WaitReady waits until the agent answers, as after a reboot that this program has
// asked for, whatever Config.Reconnect says. It returns at once if it answers now. Its
// errors are those of [DialWait]; one with ReasonOtherGuest says that another guest
// answers.
func (g *Guest) WaitReady(ctx context.Context) error {
	return untilAnswered(ctx, g.closed, func(ctx context.Context) error {
		_, err := g.askInfo(ctx)
		return g.wrapInfo(err)
	})
}

// untilAnswered calls try until it succeeds or fails for good.
func untilAnswered(ctx context.Context, closed <-chan struct{}, try func(context.Context) error) error {
	again := reconnector{limit: math.MaxInt64}
	limit := waitFirstTry
	var last *Error
	for {
		tryCtx, cancel := context.WithTimeout(ctx, limit)
		err := try(tryCtx)
		late := tryCtx.Err() != nil
		cancel()
		if err == nil {
			return nil
		}
		e, ok := errors.AsType[*Error](err)
		// A guest whose clock is the faster one cancels the attempt itself.
		canceled := ok && e.Code == codes.Canceled && e.Reason != ReasonClosed
		if ctx.Err() == nil && !canceled && !Temporary(err) || !ok {
			return err
		}
		if last == nil || ctx.Err() == nil {
			last = e
		}
		if late || canceled {
			limit = min(limit*3/2, waitLastTry)
		}
		if !again.wait(ctx, closed) {
			ended := *last
			ended.err = errors.Join(last.err, ctx.Err())
			return &ended
		}
	}
}
