package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func (c *cli) attachCommand() *cobra.Command {
	var opts guest.AttachOptions
	var from, fromStderr uint64
	var noStdin bool
	var reconnect time.Duration
	cmd := &cobra.Command{
		Use:   "attach [flags] GUEST SESSION",
		Short: "Attach to a session of a guest",
		Long: `Attach to a session, named by its id, the beginning of its id, or its name. Output
starts where the client that had the session before left off, or at --from; with
--observe, at the oldest byte that the guest still has. The exit code is the
command's.

Ctrl-C and SIGTERM go to the command; a second one, or "~." after a newline on a
terminal, breaks off and leaves the session running. With --observe they do not go to
the command, and the first one breaks off.`,
		ValidArgsFunction: c.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := guestArg(args, 1, 1)
			if err != nil {
				return err
			}
			if opts.Observer && opts.TakeOver {
				return usageError{errors.New("--observe does not go with --take-over")}
			}
			return c.attended(cmd, target, reconnect, func(a *attendance) (*guest.Cmd, error) {
				info, err := findSession(a.ctx, a.guest, rest[0])
				if err != nil {
					return nil, err
				}
				id, err := guest.SessionIDFromBytes(info.SessionId)
				if err != nil {
					return nil, err
				}
				// A stream without an offset starts as if none had one.
				opts.Stdout, opts.Stderr = info.StdoutFirst, info.StderrFirst
				if !opts.Observer {
					opts.Stdout = max(opts.Stdout, info.StdoutAcknowledged)
					opts.Stderr = max(opts.Stderr, info.StderrAcknowledged)
				}
				given := cmd.Flags().Changed
				if opts.FromOldest = !given("from") && !given("from-stderr"); given("from") {
					opts.Stdout = from
				}
				if given("from-stderr") {
					opts.Stderr = fromStderr
				}
				a.keep, a.aside = true, opts.Observer
				k := a.guest.Attach(a.ctx, id.String(), &opts)
				a.tellGaps(k)
				if opts.FromOldest {
					noteDropped(a.gaps, info)
				}
				if info.Terminal {
					k.Terminal = a.terminal()
				}
				return k, a.connect(k, info.Stdin && !opts.Observer && !noStdin && info.Exit == nil)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.Observer, "observe", false, "only read along: never make the command wait, and never type into it")
	flags.BoolVar(&opts.TakeOver, "take-over", false, "take the session from the client that has it")
	flags.Uint64Var(&from, "from", 0, "offset of the first byte of stdout that is wanted")
	flags.Uint64Var(&fromStderr, "from-stderr", 0, "offset of the first byte of stderr that is wanted")
	flags.BoolVar(&noStdin, "no-stdin", false, "do not pass stdin to the command")
	flags.DurationVar(&reconnect, "reconnect", guest.DefaultReconnect, "keep reconnecting this long after a connection was lost (0 disables)")
	return cmd
}

// noteDropped notes what a session has dropped before any owner could read it.
func noteDropped(g *gaps, info *guestv1.SessionInfo) {
	if n := info.StdoutFirst; n > info.StdoutAcknowledged {
		g.note(1, info.StdoutAcknowledged, n-info.StdoutAcknowledged)
	}
	if n := info.StderrFirst; n > info.StderrAcknowledged {
		g.note(2, info.StderrAcknowledged, n-info.StderrAcknowledged)
	}
}

func streamName(fd int) string {
	if fd == 2 {
		return "stderr"
	}
	return "stdout"
}

// findSession returns the session that a user means: by its id, by a beginning
// of it that only one has, or by its name; of several with one name, the one
// that runs, or else the last.
func findSession(ctx context.Context, g *guest.Guest, arg string) (*guestv1.SessionInfo, error) {
	sessions, err := g.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	var named, prefixed []*guestv1.SessionInfo
	for _, s := range sessions {
		id, err := guest.SessionIDFromBytes(s.SessionId)
		switch {
		case err != nil:
			return nil, err
		case id.String() == arg:
			return s, nil
		case s.Name == arg:
			named = append(named, s)
		case len(arg) >= minPrefix && len(arg) < len(id.String()) && id.String()[:len(arg)] == arg:
			prefixed = append(prefixed, s)
		}
	}
	for _, s := range named {
		if s.Exit == nil {
			return s, nil
		}
	}
	switch {
	case len(named) > 0:
		return named[len(named)-1], nil
	case len(prefixed) == 1:
		return prefixed[0], nil
	case len(prefixed) > 1:
		return nil, fmt.Errorf("%d sessions begin with %q: give more of the id", len(prefixed), arg)
	}
	if id, err := guest.ParseSessionID(arg); err == nil {
		// The agent may still know that there was one.
		err := g.SignalSession(ctx, id, 0, nil)
		if e, ok := errors.AsType[*guest.Error](err); ok && e.Reason == "session-gone" {
			e.Op = ""
			return nil, e
		}
	}
	return nil, noSessionError{fmt.Errorf("guest %s has no session %q: see host-ctl sessions", g.Target(), arg)}
}

// noSessionError says that there is no session of that name.
type noSessionError struct{ error }

// minPrefix is the least of an id that may stand for it: the letter and four
// digits.
const minPrefix = 5
