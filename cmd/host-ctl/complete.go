package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// completeTimeout bounds what a press of the Tab key may take.
const completeTimeout = time.Second

// completeGuest completes GUEST.
func (c *cli) completeGuest(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	guests := []string{"local\tan agent inside host-ctl"}
	if c.readFile() == nil {
		for _, name := range c.file.Names() {
			guests = append(guests, name+"\t"+c.file.Guests[name].Target)
		}
	}
	return guests, cobra.ShellCompDirectiveNoFileComp
}

// completeName completes NAME... of the configuration file.
func (c *cli) completeName(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	if c.readFile() != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.file.Names(), cobra.ShellCompDirectiveNoFileComp
}

// completeSession completes GUEST SESSION.
func (c *cli) completeSession(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.completeSessions(cmd, args, toComplete)
}

// completeSessions completes GUEST SESSION...
func (c *cli) completeSessions(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeGuest(cmd, args, toComplete)
	}
	c.connectTimeout = completeTimeout
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	g, err := c.dial(ctx, args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.close(g)
	sessions, err := g.Sessions(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, s := range sessions {
		id, err := guest.SessionIDFromBytes(s.SessionId)
		if err != nil {
			continue
		}
		if len(names) >= maxCompletions {
			break
		}
		about := visibleLine(clip(commandLine(s.Args), maxCompletionText))
		names = append(names, id.String()+"\t"+about)
		if s.Name != "" && len(s.Name) <= maxCompletionText && s.Name == visibleLine(s.Name) {
			names = append(names, s.Name+"\t"+about)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
