package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/vsockrpc/vsockrpc/guest"
)

// listAtOnce bounds how many guests list asks at a time.
const listAtOnce = 16

func (c *cli) listCommand() *cobra.Command {
	var l listing
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:               "list [flags] [NAME...]",
		Aliases:           []string{"ls-guests"},
		Short:             "List the guests of the configuration file, and whether each answers",
		ValidArgsFunction: c.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(l.format); err != nil {
				return err
			}
			if err := c.readFile(); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			trust, err := c.keyFlags.trust()
			if err != nil {
				return err
			}
			names := c.file.Names()
			for _, name := range args {
				if _, ok := c.file.Lookup(name); !ok {
					return usageError{fmt.Errorf("no guest is called %q: the configuration file has %s", name, strings.Join(names, ", "))}
				}
			}
			if len(args) > 0 {
				names = args
			}
			guests := make([]listedGuest, len(names))
			var asking errgroup.Group
			asking.SetLimit(listAtOnce)
			for i, name := range names {
				asking.Go(func() error {
					guests[i] = c.ask(ctx, name, trust, timeout, l.quiet)
					return nil
				})
			}
			asking.Wait()
			p := l.printer(c.stdout, "NAME", "TARGET", "STATE", "HOSTNAME", "AGENT")
			for _, g := range guests {
				if err := p.row(g.Name, g, g.Name, g.Target, g.State, g.Hostname, g.Agent); err != nil {
					return err
				}
			}
			return p.close()
		},
	}
	l.flags(cmd, "print names only, and ask no guest")
	ignored(cmd.Flags(), "all", "a")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "how long to wait for each guest; 0: no limit")
	return cmd
}

// listedGuest is a guest as list -o json has it. Fields are only ever added.
type listedGuest struct {
	Name     string `json:"name"`
	Target   string `json:"target"`
	State    string `json:"state"` // "up", "untrusted", or the reason of the failure
	Hostname string `json:"hostname,omitempty"`
	Agent    string `json:"agent,omitempty"`
	Error    string `json:"error,omitempty"`
}

func (c *cli) ask(ctx context.Context, name string, trust *guest.Trust, timeout time.Duration, quiet bool) listedGuest {
	entry, _ := c.file.Lookup(name)
	l := listedGuest{Name: name, Target: entry.Target}
	if quiet {
		return l
	}
	ctx, cancel := withLimit(ctx, timeout)
	defer cancel()
	cfg := c.config()
	cfg.Trust = trust
	g, err := guest.Dial(ctx, name, cfg)
	if err != nil {
		l.State, l.Error = guest.FromError(err).Reason, err.Error()
		return l
	}
	defer g.Close()
	l.State = "up"
	info, err := g.Info(ctx)
	if err != nil {
		l.State, l.Error = guest.FromError(err).Reason, err.Error()
		return l
	}
	if !info.GetAccess().GetTrusted() {
		l.State = "untrusted"
	}
	l.Hostname, l.Agent = string(info.GetHostname()), info.GetVersion()
	return l
}
