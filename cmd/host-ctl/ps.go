package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func (c *cli) psCommand() *cobra.Command {
	var l listing
	var user, sorted string
	var pids []uint
	cmd := &cobra.Command{
		Use:   "ps [flags] GUEST",
		Short: "List the processes of a guest",
		Long: `List the processes of a guest: all of them, in full. The options that ask ps(1) for
that, as in "ps aux GUEST" and "ps GUEST -ef", are accepted.`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, _, err := guestArg(withoutPSOptions(args), 0, 0)
			if err != nil {
				return err
			}
			if err := checkFormat(l.format); err != nil {
				return err
			}
			compare, ok := processOrders[sorted]
			if !ok {
				return usageError{fmt.Errorf("--sort=%s: want pid, cpu, rss or start", sorted)}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				p := l.printer(c.stdout, ">PID", ">PPID", "USER", "S", ">CPU", ">RSS", ">STARTED", "SESSION", "COMMAND")
				print := func(info *guestv1.ProcessInfo) error {
					j := processJSON(info)
					return p.row(fmt.Sprint(j.PID), j, fmt.Sprint(j.PID), fmt.Sprint(j.PPID), userName(info), j.State,
						cpuTime(info.CpuMillis), size(j.RSS), ago(info.StartUnixNanos), short(j.Session), processCommand(info))
				}
				var held []*guestv1.ProcessInfo
				for info, err := range g.Processes(ctx) {
					if err != nil {
						return err
					}
					if user != "" && user != userName(info) && user != fmt.Sprint(info.Uid) || len(pids) > 0 && !slices.Contains(pids, uint(info.Pid)) {
						continue
					}
					if compare != nil {
						held = append(held, info)
					} else if err := print(info); err != nil {
						return err
					}
				}
				slices.SortStableFunc(held, compare)
				for _, info := range held {
					if err := print(info); err != nil {
						return err
					}
				}
				return p.close()
			})
		},
	}
	l.flags(cmd, "print process ids only")
	flags := cmd.Flags()
	flags.StringVarP(&user, "user", "U", "", "processes of a user, a name or number")
	flags.UintSliceVarP(&pids, "pid", "p", nil, "processes with these ids")
	flags.StringVar(&sorted, "sort", "", "pid (lowest first), cpu, rss (highest first) or start (last first)")
	for name, shorthand := range map[string]string{"all": "a", "every": "e", "full": "f", "own": "u", "without-terminal": "x", "All": "A", "wide": "w"} {
		ignored(flags, name, shorthand)
	}
	cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]string{"pid", "cpu", "rss", "start"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// withoutPSOptions returns the arguments without options of ps(1) that have no dash.
func withoutPSOptions(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
		return len(args) > 1 && slices.Contains([]string{"aux", "auxw", "auxww", "auxf", "ax", "axu", "axf", "ef"}, arg)
	})
}

// processOrders are the orders of --sort.
var processOrders = map[string]func(a, b *guestv1.ProcessInfo) int{
	"":      nil,
	"pid":   func(a, b *guestv1.ProcessInfo) int { return cmp.Compare(a.Pid, b.Pid) },
	"cpu":   func(a, b *guestv1.ProcessInfo) int { return cmp.Compare(b.CpuMillis, a.CpuMillis) },
	"rss":   func(a, b *guestv1.ProcessInfo) int { return cmp.Compare(b.ResidentBytes, a.ResidentBytes) },
	"start": func(a, b *guestv1.ProcessInfo) int { return cmp.Compare(b.StartTicks, a.StartTicks) },
}

// processRow is a process as -o json has it. Fields are only ever added.
type processRow struct {
	PID     uint32    `json:"pid"`
	PPID    uint32    `json:"ppid"`
	PGID    uint32    `json:"pgid"`
	UID     uint32    `json:"uid"`
	User    string    `json:"user,omitempty"`
	State   string    `json:"state"`
	CPU     float64   `json:"cpu_seconds"`
	RSS     uint64    `json:"rss_bytes"`
	Virtual uint64    `json:"virtual_bytes"`
	Threads uint32    `json:"threads"`
	Started time.Time `json:"started"`
	Ticks   uint64    `json:"start_ticks"`
	Name    string    `json:"name"`
	Args    []string  `json:"args"`
	Session string    `json:"session,omitempty"`
}

func processJSON(p *guestv1.ProcessInfo) processRow {
	return processRow{
		PID: p.Pid, PPID: p.ParentPid, PGID: p.ProcessGroup, UID: p.Uid, User: string(p.User), State: p.State,
		CPU: float64(p.CpuMillis) / 1000, RSS: p.ResidentBytes, Virtual: p.VirtualBytes, Threads: p.Threads,
		Started: unixTime(p.StartUnixNanos), Ticks: p.StartTicks, Name: string(p.Name), Args: texts(p.Args), Session: idText(p.SessionId),
	}
}

func userName(p *guestv1.ProcessInfo) string {
	if len(p.User) > 0 {
		return string(p.User)
	}
	return fmt.Sprint(p.Uid)
}

// processCommand is the command line, or the name in brackets as ps(1) has it.
func processCommand(p *guestv1.ProcessInfo) string {
	if len(p.Args) == 0 {
		return "[" + string(p.Name) + "]"
	}
	return commandLine(p.Args)
}

// cpuTime returns milliseconds as ps(1) has them, minutes and seconds.
func cpuTime(millis uint64) string {
	s := millis / 1000
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// short returns the beginning of a session's id that stands for it.
func short(id string) string { return id[:min(len(id), 9)] }
