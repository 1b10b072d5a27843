package guest

import (
	"context"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// clockSamples is how often a clock is read to measure its offset; the sample that was
// on its way for the shortest time counts.
const clockSamples = 8

// ClockReading is what a guest's clocks said, and how its wall clock compares with that
// of this machine.
type ClockReading struct {
	// Wall is the guest's wall clock at about the time when Clock returned.
	Wall time.Time
	// Monotonic and Boot are times since the guest's boot, without and with those in
	// which it was suspended.
	Monotonic, Boot time.Duration
	// Offset is how far the guest's wall clock is ahead of this machine's, negative if it
	// is behind. It is wrong by Error at most.
	Offset, Error time.Duration
	// Keeper is the program of the guest that keeps its clock, such as "chronyd", empty
	// for none. The guest says so.
	Keeper string
}

// ClockAction is what a guest did to its clock.
type ClockAction = guestv1.ClockAction

const (
	ClockStepped = guestv1.ClockAction_CLOCK_ACTION_STEPPED // it has the new time
	ClockSlewed  = guestv1.ClockAction_CLOCK_ACTION_SLEWED  // it goes faster or slower until it has the new time
	ClockLeft    = guestv1.ClockAction_CLOCK_ACTION_LEFT    // nothing, since another program keeps it
)

// ClockChange is what SetClock and SyncClock have done.
type ClockChange struct {
	// Action is 0 if there was nothing to do.
	Action ClockAction
	// Moved is what the clock was, or is being, moved by. The kernel slews 500 ms at most.
	Moved time.Duration
	// Keeper is the program of the guest that keeps its clock, empty for none.
	Keeper string
	// RTCSet says that the hardware clock was set too; if it was not after a step,
	// RTCError says why.
	RTCSet   bool
	RTCError string
}

// SetClockOptions say how a clock is set. The zero value is the default.
type SetClockOptions struct {
	// Force changes the clock even if another program of the guest keeps it.
	Force bool
	// Step has SyncClock step the clock, however little it is wrong.
	Step bool
}

// Clock reads the guest's clocks and measures the offset of its wall clock as NTP does:
// with four timestamps, eight times, of which the best counts. The clock of this
// machine should not be stepped meanwhile.
func (g *Guest) Clock(ctx context.Context) (*ClockReading, error) {
	best, err := g.readClock(ctx, true)
	if err != nil {
		return nil, err
	}
	last := best
	// The first has looked for a keeper, which is all that it is good for if it took long.
	for range clockSamples - 1 {
		if last, err = g.readClock(ctx, false); err != nil {
			return nil, err
		}
		last.Keeper = best.Keeper
		if last.Error < best.Error {
			best = last
		}
	}
	best.Wall, best.Monotonic, best.Boot = last.Wall, last.Monotonic, last.Boot
	return best, nil
}

// readClock reads the clocks once.
func (g *Guest) readClock(ctx context.Context, findKeeper bool) (*ClockReading, error) {
	const op, method = "read clock", guestv1.ClockService_ReadClock_FullMethodName
	var reading *ClockReading
	err := g.persist(ctx, op, method, func() error {
		resp := new(guestv1.ReadClockResponse)
		begin := time.Now()
		if err := g.conn.Invoke(ctx, method, &guestv1.ReadClockRequest{FindKeeper: findKeeper}, resp); err != nil {
			return err
		}
		var err error
		reading, err = clockReading(begin.UnixNano(), time.Since(begin), resp)
		return err
	})
	if err != nil {
		return nil, err
	}
	return reading, nil
}

// clockReading makes a reading of a guest's answer to a call that began at a time of
// this machine's clock and took a while.
func clockReading(begin int64, took time.Duration, r *guestv1.ReadClockResponse) (*ClockReading, error) {
	received, sent := r.GetReceivedUnixNanos(), r.GetSentUnixNanos()
	if received < 0 || sent < 0 || int64(r.GetMonotonicNanos()) < 0 || int64(r.GetBoottimeNanos()) < 0 {
		return nil, protocolError("a clock before 1970 or after 2262")
	}
	// If the guest's clock was set meanwhile, the times tell nothing: the error covers all.
	inside := time.Duration(sent - received)
	if inside < 0 || inside > took {
		inside = 0
	}
	// Halves, so that the sum does not overflow.
	ahead, behind := received-begin, sent-begin-int64(took)
	offset := ahead/2 + behind/2 + (ahead%2+behind%2)/2
	return &ClockReading{Wall: time.Unix(0, sent), Monotonic: time.Duration(r.GetMonotonicNanos()), Boot: time.Duration(r.GetBoottimeNanos()),
		Offset: time.Duration(offset), Error: (took-inside)/2 + 1, Keeper: r.GetKeeper()}, nil
}

// SetClock sets the guest's wall clock to t, and its hardware clock with it. What the
// call takes on its way it does not make up for: [Guest.SyncClock] does. A nil opts means
// the defaults. It changes nothing, and says so, if another program of the guest keeps
// the clock. The call is not repeated after a lost connection.
func (g *Guest) SetClock(ctx context.Context, t time.Time, opts *SetClockOptions) (*ClockChange, error) {
	if opts == nil {
		opts = &SetClockOptions{}
	}
	resp, err := call[guestv1.SetClockRequest, guestv1.SetClockResponse](ctx, g, "set clock", guestv1.ClockService_SetClock_FullMethodName,
		&guestv1.SetClockRequest{WallUnixNanos: t.UnixNano(), Force: opts.Force})
	if err != nil {
		return nil, err
	}
	return clockChange(resp.GetChange()), nil
}

// SyncClock sets the guest's wall clock to that of this machine. It measures the offset,
// and has the guest step its clock if that is more than 100 ms and four times its error,
// else slew it. A nil opts means the defaults. It returns the measurement too, from
// before the change. It changes nothing, and says so, if another program of the guest
// keeps the clock.
func (g *Guest) SyncClock(ctx context.Context, opts *SetClockOptions) (*ClockChange, *ClockReading, error) {
	if opts == nil {
		opts = &SetClockOptions{}
	}
	before, err := g.Clock(ctx)
	if err != nil {
		return nil, nil, err
	}
	if before.Offset == 0 {
		return &ClockChange{Keeper: before.Keeper}, before, nil
	}
	resp, err := call[guestv1.AdjustClockRequest, guestv1.AdjustClockResponse](ctx, g, "adjust clock", guestv1.ClockService_AdjustClock_FullMethodName,
		&guestv1.AdjustClockRequest{AdjustNanos: -int64(before.Offset), ErrorNanos: int64(before.Error), Force: opts.Force, Step: opts.Step})
	if err != nil {
		return nil, before, err
	}
	return clockChange(resp.GetChange()), before, nil
}

func clockChange(c *guestv1.ClockChange) *ClockChange {
	return &ClockChange{Action: c.GetAction(), Moved: time.Duration(c.GetMovedNanos()), Keeper: c.GetKeeper(), RTCSet: c.GetRtcSet(), RTCError: c.GetRtcError()}
}
