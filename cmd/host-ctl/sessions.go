package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func (c *cli) sessionsCommand() *cobra.Command {
	var l listing
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
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				sessions, err := g.Sessions(ctx)
				if err != nil {
					return err
				}
				p := l.printer(c.stdout, "ID", "NAME", "PID", "STATE", "STARTED", "OUTPUT", "COMMAND")
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
	return cmd
}

// session is a session as -o json has it. Fields are only ever added.
type session struct {
	ID          string     `json:"id"`
	Name        string     `json:"name,omitempty"`
	PID         uint32     `json:"pid"`
	Args        []string   `json:"args"`
	User        string     `json:"user,omitempty"`
	State       string     `json:"state"` // "running", "exit N", "signal NAME"
	Terminal    bool       `json:"terminal"`
	Stdin       bool       `json:"stdin"`
	Started     time.Time  `json:"started"`
	Ended       *time.Time `json:"ended,omitempty"`
	ExitCode    *uint32    `json:"exit_code,omitempty"`
	Signal      uint32     `json:"signal,omitempty"`
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
		ID: idText(s.SessionId), Name: s.Name, PID: s.Pid, Args: texts(s.Args), User: string(s.User), State: "running",
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
			j.State = fmt.Sprintf("exit %d", *e.Code)
		} else {
			j.State = "signal " + strings.TrimPrefix(guest.Signal(e.Signal).Name(), "SIG")
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
