package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) killCommand() *cobra.Command {
	var name string
	var group bool
	cmd := &cobra.Command{
		Use:   "kill [flags] GUEST PID|SESSION...",
		Short: "Send a signal to processes or sessions of a guest",
		Long: `Send a signal, SIGTERM by default, to processes of a guest, named by their pid, and
to sessions, named by their id, the beginning of it, or their name.`,
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
				return each(rest, func(arg string) error { return kill(ctx, g, arg, sig, group) })
			})
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "TERM", "signal, by name or number")
	cmd.Flags().BoolVar(&group, "group", false, "the whole process group")
	cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(guest.SignalNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func kill(ctx context.Context, g *guest.Guest, arg string, sig guest.Signal, group bool) error {
	if pid, err := strconv.ParseUint(arg, 10, 32); err == nil {
		if pid == 0 {
			return fmt.Errorf("process 0: there is none")
		}
		return g.SignalProcess(ctx, uint32(pid), sig, group, 0)
	}
	id, err := sessionID(ctx, g, arg)
	if err != nil {
		return err
	}
	return g.SignalSession(ctx, id, sig, group)
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
	var errs []error
	for _, arg := range args {
		if err := f(arg); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
