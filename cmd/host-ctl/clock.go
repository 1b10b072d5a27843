package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// clockNow is a guest's clock as clock -o json has it. Fields are only added.
type clockNow struct {
	Time   time.Time `json:"time"`
	Offset int64     `json:"offset_nanos"`
	Error  int64     `json:"error_nanos"`

	Monotonic int64  `json:"monotonic_nanos"`
	Boot      int64  `json:"boottime_nanos"`
	Keeper    string `json:"keeper,omitempty"`

	Changed *clockChanged `json:"changed,omitempty"`
}

// clockChanged is what --set or --sync has done; the offset beside it is the one from
// before.
type clockChanged struct {
	Action   string `json:"action"` // stepped, slewed, left, none
	Moved    int64  `json:"moved_nanos"`
	RTCSet   bool   `json:"rtc_set"`
	RTCError string `json:"rtc_error,omitempty"`
}

// clockVerb is what clock was asked for.
type clockVerb struct {
	format           string
	set, sync, watch bool
	force            bool
	interval         time.Duration
}

// minClockInterval is the shortest --interval.
const minClockInterval = 100 * time.Millisecond

func (c *cli) clockCommand() *cobra.Command {
	var v clockVerb
	cmd := &cobra.Command{
		Use:   "clock [flags] GUEST",
		Short: "Compare a guest's clock with this machine's, and set it",
		Long: `Compare a guest's clock with this machine's, and set it.

The offset is how far the guest's clock is ahead. It is measured as NTP does, eight
times, and is wrong by the error at most. If another program keeps the guest's clock,
such as chronyd, the clock is left alone without --force.`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, _, err := guestArg(args, 0, 0)
			if err != nil {
				return err
			}
			if err := v.check(); err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error { return v.run(ctx, c, g) })
		},
	}
	outputFlag(cmd, &v.format)
	f := cmd.Flags()
	f.BoolVar(&v.set, "set", false, "set the guest's clock to this machine's, at once")
	f.BoolVar(&v.sync, "sync", false, "the same, but little by little if it is wrong by less than 100 ms or four times the error")
	f.BoolVar(&v.watch, "watch", false, "go on, with a line each interval")
	f.BoolVar(&v.force, "force", false, "set it even if another program keeps it")
	f.DurationVar(&v.interval, "interval", time.Second, "of --watch")
	cmd.MarkFlagsMutuallyExclusive("set", "sync", "watch")
	return cmd
}

func (v *clockVerb) check() error {
	if v.interval < minClockInterval {
		return usageError{fmt.Errorf("--interval %v: want %v at least", v.interval, minClockInterval)}
	}
	if v.force && !v.set && !v.sync {
		return usageError{errors.New("--force is for --set and --sync")}
	}
	return checkFormat(v.format)
}

func (v *clockVerb) run(ctx context.Context, c *cli, g *guest.Guest) error {
	for {
		now, err := v.once(ctx, g)
		if err != nil {
			return err
		}
		if v.format == "json" {
			err = writeJSON(c.stdout, now)
		} else {
			err = printVisible(c.stdout, "%s\n", visibleLine(now.line()))
		}
		if err != nil || !v.watch {
			return err
		}
		select {
		case <-time.After(v.interval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// once reads the clock, and sets it if that was asked for.
func (v *clockVerb) once(ctx context.Context, g *guest.Guest) (*clockNow, error) {
	var r *guest.ClockReading
	var change *guest.ClockChange
	var err error
	if v.set || v.sync {
		change, r, err = g.SyncClock(ctx, &guest.SetClockOptions{Step: v.set, Force: v.force})
	} else {
		r, err = g.Clock(ctx)
	}
	if err != nil {
		return nil, err
	}
	now := &clockNow{Time: r.Wall.UTC(), Offset: int64(r.Offset), Error: int64(r.Error), Monotonic: int64(r.Monotonic), Boot: int64(r.Boot), Keeper: r.Keeper}
	if change != nil {
		now.Changed = &clockChanged{Action: clockAction(change.Action), Moved: int64(change.Moved), RTCSet: change.RTCSet, RTCError: change.RTCError}
	}
	return now, nil
}

func clockAction(a guest.ClockAction) string {
	switch a {
	case guest.ClockStepped:
		return "stepped"
	case guest.ClockSlewed:
		return "slewed"
	case guest.ClockLeft:
		return "left"
	}
	return "none"
}

// line describes the clock for people.
func (n *clockNow) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  offset %s  error %v", n.Time.Format(time.RFC3339Nano), signed(n.Offset), time.Duration(n.Error))
	if n.Keeper != "" {
		fmt.Fprintf(&b, "  kept by %s", n.Keeper)
	}
	switch c := n.Changed; {
	case c == nil:
	case c.Action == "left":
		b.WriteString("  left alone: --force sets it all the same")
	case c.Action == "none":
		b.WriteString("  right already")
	default:
		fmt.Fprintf(&b, "  %s by %s", c.Action, signed(c.Moved))
		if c.RTCError != "" {
			fmt.Fprintf(&b, "  hardware clock not set: %s", c.RTCError)
		}
	}
	return b.String()
}

// signed returns a time with its sign.
func signed(nanos int64) string {
	if nanos > 0 {
		return "+" + time.Duration(nanos).String()
	}
	return time.Duration(nanos).String()
}
