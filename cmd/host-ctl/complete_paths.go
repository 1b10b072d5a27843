package main

import (
	"context"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// Bounds of a completion: names, and bytes of one or of what is said about it.
const (
	maxCompletions    = 1000
	maxCompletionText = 256
)

// completePath completes GUEST PATH...
func (c *cli) completePath(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if _, _, remote := splitOperand(toComplete); remote {
		return c.completeOperand(cmd, args, toComplete)
	}
	if len(args) == 0 {
		return c.completeGuest(cmd, args, toComplete)
	}
	return c.completeGuestPath(cmd, args[0], "", toComplete)
}

// completeOperand completes the SRC and DST of cp: a guest before the colon, its
// files after it, and files of this machine.
func (c *cli) completeOperand(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if target, _, remote := splitOperand(toComplete); remote {
		return c.completeGuestPath(cmd, target, target+":", toComplete[len(target)+1:])
	}
	var names []string
	guests, _ := c.completeGuest(cmd, nil, toComplete)
	for _, g := range guests {
		name, about, _ := strings.Cut(g, "\t")
		if strings.HasPrefix(name, toComplete) && toComplete != "" {
			names = append(names, name+":\t"+about)
		}
	}
	if len(names) == 0 {
		return nil, cobra.ShellCompDirectiveDefault // files of this machine
	}
	return names, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

// completeGuestPath completes a path of a guest; before is what precedes it in the
// word.
func (c *cli) completeGuestPath(cmd *cobra.Command, target, before, toComplete string) ([]string, cobra.ShellCompDirective) {
	const nothing = cobra.ShellCompDirectiveNoFileComp
	c.connectTimeout = completeTimeout
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	g, err := c.dial(ctx, target)
	if err != nil {
		return nil, nothing
	}
	defer c.close(g)
	dir, base := path.Split(toComplete)
	in := guestPath(dir)
	if in == "" {
		in = "."
	}
	var names []string
	directive := nothing
	for info, err := range g.Files().List(ctx, in, &guest.ListOptions{Brief: true}) {
		if err != nil {
			break // what has come is of use all the same
		}
		name := info.Name()
		if !strings.HasPrefix(name, base) || info.Path() == "" || len(name) > maxCompletionText || name != visibleLine(name) ||
			base == "" && strings.HasPrefix(name, ".") {
			continue
		}
		if info.IsDir() {
			name += "/"
			directive = nothing | cobra.ShellCompDirectiveNoSpace
		}
		if names = append(names, before+dir+name); len(names) == maxCompletions {
			break
		}
	}
	return names, directive
}
