//go:build linux

package clock

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	// stepAbove is what the clock may be wrong by before it is stepped.
	stepAbove = 100 * time.Millisecond
	// stepErrors is how many times its own error an adjustment may be and still be
	// slewed: a step by what was measured badly would be worse than waiting.
	stepErrors = 4
	// maxSlew is the most that the kernel slews (MAXPHASE of linux/timex.h).
	maxSlew = 500 * time.Millisecond
)

// The words of the errors.
const (
	reasonBadTime       = "bad-time"
	reasonEmbeddedAgent = "embedded-agent"
	reasonNotPermitted  = "not-permitted"
	reasonFailed        = "failed"
)

// Config configures a Server. The zero value of every field is its default.
type Config struct {
	// Machine says that the agent is that of a whole machine, whose clock it sets.
	// Default: SetClock and AdjustClock are refused.
	Machine bool
	// Logger gets a record of each change. Default: slog.Default().
	Logger *slog.Logger
}

// Server implements guest.v1.ClockService. It is made by NewServer and safe for
// concurrent use.
type Server struct {
	guestv1.UnimplementedClockServiceServer
	machine bool
	log     *slog.Logger
	kernel  kernel

	mu sync.Mutex // held while the clock is changed
}

// NewServer makes a server. A nil cfg means the defaults.
func NewServer(cfg *Config) *Server {
	if cfg == nil {
		cfg = &Config{}
	}
	s := &Server{machine: cfg.Machine, log: cfg.Logger, kernel: systemKernel()}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s
}

// ReadClock reads the clocks, and looks for another program that keeps the wall clock
// if it is asked to.
func (s *Server) ReadClock(ctx context.Context, req *guestv1.ReadClockRequest) (*guestv1.ReadClockResponse, error) {
	received := s.kernel.now()
	resp := &guestv1.ReadClockResponse{ReceivedUnixNanos: received.wall}
	if req.GetFindKeeper() {
		var err error
		if resp.Keeper, err = s.kernel.keeper(ctx); err != nil {
			return nil, failure("find what keeps the clock", err)
		}
	}
	sent := s.kernel.now()
	resp.SentUnixNanos, resp.MonotonicNanos, resp.BoottimeNanos = sent.wall, uint64(sent.monotonic), uint64(sent.boot)
	return resp, nil
}

// SetClock sets the wall clock to a time.
func (s *Server) SetClock(ctx context.Context, req *guestv1.SetClockRequest) (*guestv1.SetClockResponse, error) {
	to := req.GetWallUnixNanos()
	if to <= 0 {
		return nil, badTime("the time to set has to be after 1970")
	}
	change, err := s.change(ctx, req.GetForce(), func(c *guestv1.ClockChange) error {
		before := s.kernel.now().wall
		if err := s.kernel.set(to); err != nil {
			return failure("set the clock", err)
		}
		c.Action, c.MovedNanos = guestv1.ClockAction_CLOCK_ACTION_STEPPED, to-before
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &guestv1.SetClockResponse{Change: change}, nil
}

// AdjustClock moves the wall clock by an amount.
func (s *Server) AdjustClock(ctx context.Context, req *guestv1.AdjustClockRequest) (*guestv1.AdjustClockResponse, error) {
	by, wrong := req.GetAdjustNanos(), req.GetErrorNanos()
	switch now := s.kernel.now().wall; {
	case by == 0:
		return nil, badTime("there is nothing to adjust by")
	case wrong < 0:
		return nil, badTime("the error of an adjustment is not negative")
	case by > 0 && now > math.MaxInt64-by, now+by <= 0:
		return nil, badTime("the time to set has to be between 1970 and 2262")
	}
	change, err := s.change(ctx, req.GetForce(), func(c *guestv1.ClockChange) error {
		if req.GetStep() || steps(time.Duration(by), time.Duration(wrong)) {
			c.Action, c.MovedNanos = guestv1.ClockAction_CLOCK_ACTION_STEPPED, by
			return failure("step the clock", s.kernel.step(by))
		}
		by = max(min(by, int64(maxSlew)), -int64(maxSlew))
		c.Action, c.MovedNanos = guestv1.ClockAction_CLOCK_ACTION_SLEWED, by
		return failure("slew the clock", s.kernel.slew(by))
	})
	if err != nil {
		return nil, err
	}
	return &guestv1.AdjustClockResponse{Change: change}, nil
}

// steps reports whether an adjustment that may be wrong by some time is a step.
func steps(by, wrong time.Duration) bool {
	limit := stepAbove
	if wrong > math.MaxInt64/stepErrors {
		return false
	}
	limit = max(limit, stepErrors*wrong)
	return by > limit || by < -limit
}

// change has do change the clock, unless another program keeps it, and sets the
// hardware clock after a step.
func (s *Server) change(ctx context.Context, force bool, do func(*guestv1.ClockChange) error) (*guestv1.ClockChange, error) {
	if !s.machine {
		return nil, fault.New(codes.FailedPrecondition, reasonEmbeddedAgent, "this agent is part of another program, and leaves the clock of its machine alone").
			On("set the clock", "", nil).Hint("call the guest-agent of the machine")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &guestv1.ClockChange{}
	var err error
	if c.Keeper, err = s.kernel.keeper(ctx); err != nil {
		return nil, failure("find what keeps the clock", err)
	}
	if c.Keeper != "" && !force {
		c.Action = guestv1.ClockAction_CLOCK_ACTION_LEFT
		return c, nil
	}
	if err := do(c); err != nil {
		return nil, err
	}
	if c.Action == guestv1.ClockAction_CLOCK_ACTION_STEPPED {
		if err := s.kernel.setRTC(); err != nil {
			c.RtcError = err.Error()
		} else {
			c.RtcSet = true
		}
	}
	s.log.InfoContext(ctx, "clock changed", "action", c.Action, "by", time.Duration(c.MovedNanos), "keeper", c.Keeper, "rtc_error", c.RtcError)
	return c, nil
}

func badTime(text string) error { return fault.New(codes.InvalidArgument, reasonBadTime, "%s", text) }

// failure is the status for what the kernel answered, nil for nil.
func failure(op string, err error) error {
	if err == nil {
		return nil
	}
	code, reason, hint := codes.Internal, reasonFailed, ""
	switch err {
	case context.Canceled, context.DeadlineExceeded:
		return err
	case syscall.EPERM:
		code, reason, hint = codes.PermissionDenied, reasonNotPermitted, "the agent needs CAP_SYS_TIME, which a container does not have"
	case syscall.EINVAL:
		code, reason = codes.InvalidArgument, reasonBadTime
	}
	return fault.New(code, reason, "%s", fmt.Sprintf("%s: %v", op, err)).On(op, "", err).Hint(hint)
}
