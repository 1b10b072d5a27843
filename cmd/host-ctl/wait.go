package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/guest"
)

// Times between and of the tries of wait. A guest that boots may swallow a
// connection: then only a new one is answered. But one so slow that each try
// ends before its answer comes is given more time with each.
const (
	waitFirstTry = 2 * time.Second
	waitLastTry  = 10 * time.Second
	waitFirstGap = 50 * time.Millisecond
	waitLastGap  = time.Second
)

func (c *cli) waitCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait [flags] GUEST [SESSION]",
		Short: "Wait until a guest's agent answers, or a session has ended",
		Long: `Wait until a guest's agent answers, through all that happens while a guest boots:
no VM yet, nobody listening, connections reset. The exit code is 124 if it does not
within --timeout. A guest whose agent answers and does not trust the caller counts.

With SESSION, wait until that has ended, without a limit unless --timeout is given. The
exit code is the command's, as of exec.`,
		ValidArgsFunction: c.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := guestArg(args, 0, 1)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				if !cmd.Flags().Changed("timeout") {
					timeout = 0
				}
				return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
					return c.waitSession(ctx, g, rest[0], timeout)
				})
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			err = c.wait(ctx, target, timeout)
			if cause, ok := errors.AsType[interrupted](context.Cause(ctx)); ok && err != nil {
				return exitCode(exitSignal + cause.signal)
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait; 0: no limit")
	return cmd
}

// waitSession waits for the end of a session, and returns its exit code as an error.
func (c *cli) waitSession(ctx context.Context, g *guest.Guest, session string, timeout time.Duration) error {
	limited, cancel := withLimit(ctx, timeout)
	defer cancel()
	id, err := sessionID(limited, g, session)
	var state *guest.ProcessState
	if err == nil {
		state, err = g.WaitSession(limited, id)
	}
	switch {
	case err != nil && ctx.Err() == nil && (limited.Err() != nil || timeout > 0 && guest.FromError(err).Code == codes.DeadlineExceeded):
		// The guest may have noticed first.
		return timeoutError{fmt.Errorf("the session has not ended within %v", timeout)}
	case err != nil:
		return err
	case state.TimedOut():
		return timeoutError{errors.New("the command's time was over: the guest has ended it")}
	case state.Exited():
		return exitCode(state.ExitCode())
	}
	return exitCode(exitSignal + int(state.Signal()))
}

func (c *cli) wait(ctx context.Context, target string, timeout time.Duration) error {
	ctx, cancel := withLimit(ctx, timeout)
	defer cancel()
	if c.connectTimeout == 0 || c.connectTimeout > waitFirstTry {
		c.connectTimeout = waitFirstTry
	}
	var last error
	for gap := waitFirstGap; ; gap = min(2*gap, waitLastGap) {
		start := time.Now()
		g, err := c.dial(ctx, target)
		if err == nil {
			c.close(g)
			return nil
		}
		// A guest whose clock is the faster one cancels the try itself, before
		// this side's time is over.
		ge, ok := errors.AsType[*guest.Error](err)
		canceled := ok && ge.Code == codes.Canceled
		if ctx.Err() == nil {
			if !guest.Temporary(err) && !canceled {
				return err
			}
			last = err
		}
		if time.Since(start) >= c.connectTimeout || canceled {
			c.connectTimeout = min(c.connectTimeout*3/2, waitLastTry)
		}
		select {
		case <-time.After(gap):
		case <-ctx.Done():
			if last == nil {
				last = err
			}
			return timeoutError{fmt.Errorf("no answer within %v: %w", timeout, last)}
		}
	}
}
