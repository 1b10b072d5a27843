package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func (c *cli) sessionsCommand() *cobra.Command {
	var l listing
	var running bool
	var last int
	cmd := &cobra.Command{
		Use:               "sessions [flags] GUEST",
		Short:             "List the sessions of a guest",
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, _, err := guestArg(args, 0, 0)
			if err != nil {
				return err
			}
			if err := checkFormat(l.format); err != nil {
				return err
			}
			if last < 0 {
				return usageError{fmt.Errorf("--last %d: want 0 or more", last)}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				sessions, err := g.Sessions(ctx)
				if err != nil {
					return err
				}
				if running {
					sessions = slices.DeleteFunc(sessions, func(s *guestv1.SessionInfo) bool { return s.Exit != nil })
				}
				if last > 0 {
					slices.SortStableFunc(sessions, func(a, b *guestv1.SessionInfo) int { return cmp.Compare(a.StartUnixNanos, b.StartUnixNanos) })
					sessions = sessions[len(sessions)-min(last, len(sessions)):]
				}
				p := l.printer(c.stdout, "ID", "NAME", ">PID", "STATE", ">STARTED", ">OUTPUT", "COMMAND")
				for _, s := range sessions {
					j := sessionJSON(s)
					output := size(s.StdoutEnd + s.StderrEnd)
					if err := p.row(j.ID, j, j.ID, j.Name, fmt.Sprint(j.PID), j.State, ago(s.StartUnixNanos), output, commandLine(s.Args)); err != nil {
						return err
					}
				}
				return p.close()
			})
		},
	}
	l.flags(cmd, "print ids only")
	cmd.Flags().BoolVar(&running, "running", false, "those that still run")
	cmd.Flags().IntVarP(&last, "last", "n", 0, "the last N to be started; 0: all")
	ignored(cmd.Flags(), "all", "a")
	return cmd
}

// session is a session as -o json has it. Fields are only ever added.
type session struct {
	ID          string     `json:"id"`
	Name        string     `json:"name,omitempty"`
	PID         uint32     `json:"pid"`
	Args        []string   `json:"args"`
	User        string     `json:"user,omitempty"`
	State       string     `json:"state"`  // for people: "running", "exit N", "signal NAME"
	Status      string     `json:"status"` // "running", "exited" or "signaled"
	Terminal    bool       `json:"terminal"`
	Stdin       bool       `json:"stdin"`
	Started     time.Time  `json:"started"`
	Ended       *time.Time `json:"ended,omitempty"`
	ExitCode    *uint32    `json:"exit_code,omitempty"`
	Signal      uint32     `json:"signal,omitempty"` // its number
	SignalName  string     `json:"signal_name,omitempty"`
	CoreDumped  bool       `json:"core_dumped,omitempty"`
	TimedOut    bool       `json:"timed_out,omitempty"`
	OOMKilled   bool       `json:"oom_killed,omitempty"`
	Reason      string     `json:"reason,omitempty"` // why the guest ended it
	CPUSeconds  *float64   `json:"cpu_seconds,omitempty"`
	MaxRSS      uint64     `json:"max_rss_bytes,omitempty"`
	Owner       bool       `json:"owner"`
	Observers   uint32     `json:"observers"`
	Keep        bool       `json:"keep"`
	StdoutFirst uint64     `json:"stdout_first"`
	StdoutEnd   uint64     `json:"stdout_end"`
	StderrFirst uint64     `json:"stderr_first"`
	StderrEnd   uint64     `json:"stderr_end"`
}

func sessionJSON(s *guestv1.SessionInfo) session {
	j := session{
		ID: idText(s.SessionId), Name: s.Name, PID: s.Pid, Args: texts(s.Args), User: string(s.User), State: "running", Status: "running",
		Terminal: s.Terminal, Stdin: s.Stdin, Started: unixTime(s.StartUnixNanos),
		Owner: s.HasOwner, Observers: s.Observers, Keep: s.OwnerGone == guestv1.OwnerGone_OWNER_GONE_KEEP,
		StdoutFirst: s.StdoutFirst, StdoutEnd: s.StdoutEnd, StderrFirst: s.StderrFirst, StderrEnd: s.StderrEnd,
	}
	if e := s.Exit; e != nil {
		ended := unixTime(e.EndUnixNanos)
		j.Ended, j.ExitCode, j.Signal, j.TimedOut, j.OOMKilled = &ended, e.Code, e.Signal, e.TimedOut, e.OomKilled
		j.CoreDumped, j.Reason = e.CoreDumped, e.Reason
		if u := e.Usage; u != nil {
			seconds := float64(u.UserMicros+u.SystemMicros) / 1e6
			j.CPUSeconds, j.MaxRSS = &seconds, u.MaxResidentBytes
		}
		if e.Code != nil {
			j.State, j.Status = fmt.Sprintf("exit %d", *e.Code), "exited"
		} else {
			j.SignalName, j.Status = guest.Signal(e.Signal).Name(), "signaled"
			j.State = "signal " + strings.TrimPrefix(j.SignalName, "SIG")
		}
	}
	return j
}

func idText(b []byte) string {
	id, err := guest.SessionIDFromBytes(b)
	if err != nil {
		return ""
	}
	return id.String()
}

func texts(args [][]byte) []string {
	s := make([]string, len(args))
	for i, a := range args {
		s[i] = string(a)
	}
	return s
}

// commandLine joins arguments for a table, quoted where it would be unclear
// where one ends, and not many more than can be shown.
func commandLine(args [][]byte) string {
	var b strings.Builder
	for i, arg := range args {
		if b.Len() > maxText {
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		w := clip(string(arg[:min(len(arg), maxText+1)]), maxText)
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		b.WriteString(w)
	}
	return b.String()
}

// unixTime returns a guest's time, which JSON can only hold up to year 9999.
func unixTime(nanos int64) time.Time { return time.Unix(0, nanos).UTC() }

// ago returns for people how long ago a time of the guest was, by this clock.
func ago(nanos int64) string {
	d := time.Since(time.Unix(0, nanos)).Round(time.Second)
	switch {
	case nanos == 0:
		return "-"
	case d < 0:
		return "0s"
	case d < time.Hour:
		return d.String()
	case d < 48*time.Hour:
		return d.Truncate(time.Minute).String()
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}
