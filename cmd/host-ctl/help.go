package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The verbs by what they are for, in the order of the help.
const (
	groupRun     = "run"
	groupFiles   = "files"
	groupConnect = "connect"
	groupGuests  = "guests"
	groupTrust   = "trust"
)

var groups = []*cobra.Group{
	{ID: groupRun, Title: "Commands and sessions:"},
	{ID: groupFiles, Title: "Files:"},
	{ID: groupConnect, Title: "Connections:"},
	{ID: groupGuests, Title: "Guests:"},
	{ID: groupTrust, Title: "Keys and rights:"},
}

// habits says which verb people mean who type the one of another tool.
var habits = map[string][]string{
	"exec": {"run", "start"}, "shell": {"ssh", "login", "console", "enter"}, "attach": {"join"},
	"cp": {"scp", "copy", "push", "pull", "download", "upload"}, "ps": {"top", "processes"},
	"list": {"guests", "vms", "get"}, "info": {"describe", "inspect", "show", "status"},
	"rm": {"remove", "delete", "del"}, "kill": {"stop", "signal"}, "logs": {"log", "output"},
	"port-forward": {"forward", "tunnel", "expose"}, "doctor": {"check", "diagnose", "debug"},
	"wait": {"ping"}, "clock": {"date", "time", "ntp"}, "can-i": {"auth"}, "stat": {"file"}, "watch": {"inotify"},
}

// addVerbs adds the verbs of a group.
func addVerbs(root *cobra.Command, group string, verbs ...*cobra.Command) {
	for _, v := range verbs {
		v.GroupID, v.SuggestFor = group, habits[v.Name()]
	}
	root.AddCommand(verbs...)
}

// unknownVerb is the error for a verb that there is none of.
func unknownVerb(root *cobra.Command, verb string) error {
	root.SuggestionsMinimumDistance = 2
	near := root.SuggestionsFor(verb)
	for _, v := range root.Commands() {
		if slices.Contains(v.SuggestFor, verb) {
			near = []string{v.Name()}
		}
	}
	hint := ""
	if len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError{fmt.Errorf("unknown verb %q%s", verb, hint)}
}

// setHelp has help say what is asked for, or fail.
func setHelp(root *cobra.Command) {
	for _, g := range groups {
		root.AddGroup(g)
	}
	// Verbs say where the global flags are, not all of them again. (A template of our
	// own would link text/template, and with it 3 MiB.)
	usage := root.UsageFunc()
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		if cmd == root {
			return usage(cmd)
		}
		root.PersistentFlags().VisitAll(func(f *pflag.Flag) { f.Hidden = true })
		err := usage(cmd)
		fmt.Fprintf(cmd.OutOrStdout(), "\nSee \"%s --help\" for the flags that all verbs have.\n", root.Name())
		return err
	})
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [VERB]",
		Short: "Explain a verb",
		Example: `  host-ctl help exec
  host-ctl help | less`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, v := range cmd.Root().Commands() {
				if len(args) == 0 && v.IsAvailableCommand() {
					names = append(names, v.Name()+"\t"+v.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			verb, rest, err := root.Find(args)
			switch {
			case err != nil || len(args) > 0 && verb == root:
				return unknownVerb(root, args[0])
			case len(rest) > 0:
				return usageError{fmt.Errorf("%s has no verb %q", verb.CommandPath(), rest[0])}
			}
			verb.InitDefaultHelpFlag()
			return verb.Help()
		},
	})
	root.InitDefaultCompletionCmd()
	for _, v := range root.Commands() {
		if v.Name() == "completion" {
			v.Args, v.RunE = nil, func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Errorf("no completion for the shell %q: want bash, zsh, fish or powershell", args[0])}
				}
				return usageError{fmt.Errorf("no shell: want bash, zsh, fish or powershell")}
			}
		}
	}
}
