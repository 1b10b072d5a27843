package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) killCommand() *cobra.Command {
	var name string
	var group bool
	cmd := &cobra.Command{
		Use:   "kill [flags] GUEST PID[@START]|SESSION...",
		Short: "Send a signal to processes or sessions of a guest",
		Long: `Send a signal, SIGTERM by default, to processes of a guest, named by their pid, and
to sessions, named by their id, the beginning of it, or their name.

A pid may be another process's by the time that its turn comes. With START, the
start_ticks of ps -o json, only the process that ps has shown is hit; without it,
the one that has the pid when kill begins.`,
		Example: `  host-ctl kill web build
  host-ctl kill -9 web 4711
  host-ctl ps -o json web | jq -r 'select(.user == "ci") | "\(.pid)@\(.start_ticks)"' |
    xargs host-ctl kill -s HUP web`,
		ValidArgsFunction: c.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := guestArg(args, 1, -1)
			if err != nil {
				return err
			}
			sig, err := guest.ParseSignal(name)
			if err != nil {
				return usageError{err}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				starts, err := processStarts(ctx, g, rest)
				if err != nil {
					return err
				}
				return each(rest, func(arg string) error { return kill(ctx, g, arg, sig, group, starts) })
			})
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "TERM", "signal, by name or number")
	cmd.Flags().BoolVar(&group, "group", false, "the whole process group")
	cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(guest.SignalNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// signalArgs writes the -9 and -HUP of kill as the flag that it stands for.
func signalArgs(args []string) []string {
	if len(args) == 0 || args[0] != "kill" {
		return args
	}
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if name, ok := strings.CutPrefix(arg, "-"); ok && name != "" && name[0] < 'a' && name[0] != '-' {
			if _, err := guest.ParseSignal(name); err == nil {
				out[i] = "--signal=" + name
			}
		}
	}
	return out
}

// processStarts returns when the processes that arguments name by nothing but
// their pid have started: those are meant, and no later ones.
func processStarts(ctx context.Context, g *guest.Guest, args []string) (map[uint32]uint64, error) {
	starts := make(map[uint32]uint64)
	for _, arg := range args {
		if p, ok := parseProcess(arg); ok && p.start == 0 {
			starts[p.pid] = 0
		}
	}
	if len(starts) == 0 {
		return nil, nil
	}
	for p, err := range g.Processes(ctx) {
		if err != nil {
			return nil, err
		}
		if _, wanted := starts[p.Pid]; wanted {
			starts[p.Pid] = p.StartTicks
		}
	}
	return starts, nil
}

// processArg is a process as a user names it.
type processArg struct {
	pid   uint32
	start uint64 // 0: not given
}

// parseProcess parses PID or PID@START.
func parseProcess(arg string) (processArg, bool) {
	number, ticks, given := strings.Cut(arg, "@")
	pid, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return processArg{}, false
	}
	p := processArg{pid: uint32(pid)}
	if given {
		p.start, err = strconv.ParseUint(ticks, 10, 64)
	}
	return p, err == nil && (!given || p.start > 0)
}

func kill(ctx context.Context, g *guest.Guest, arg string, sig guest.Signal, group bool, starts map[uint32]uint64) error {
	if p, ok := parseProcess(arg); ok {
		if p.pid == 0 {
			return errors.New("process 0: there is none")
		}
		if p.start == 0 {
			p.start = starts[p.pid]
		}
		return g.SignalProcess(ctx, p.pid, sig, &guest.SignalOptions{Group: group, StartTicks: p.start})
	}
	id, err := sessionID(ctx, g, arg)
	if err != nil {
		return err
	}
	return g.SignalSession(ctx, id, sig, &guest.SignalOptions{Group: group})
}

// sessionID returns the id of the session that a user means. A whole id is
// taken as it is.
func sessionID(ctx context.Context, g *guest.Guest, arg string) (guest.SessionID, error) {
	if id, err := guest.ParseSessionID(arg); err == nil {
		return id, nil
	}
	info, err := findSession(ctx, g, arg)
	if err != nil {
		return guest.SessionID{}, err
	}
	return guest.SessionIDFromBytes(info.SessionId)
}

// each calls f with each argument, and returns all that failed.
func each(args []string, f func(string) error) error {
	var failed failures
	for _, arg := range args {
		failed.add(f(arg))
	}
	return failed.err()
}
