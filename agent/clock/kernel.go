//go:build linux

package clock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// kernel is what a Server asks of the kernel. Tests have one of their own: the clock
// of the machine that they run on is not theirs.
type kernel struct {
	now    func() clocks
	set    func(unixNanos int64) error
	step   func(nanos int64) error
	slew   func(nanos int64) error
	setRTC func() error
	keeper func(context.Context) (string, error)
}

// clocks are readings in nanoseconds.
type clocks struct{ wall, monotonic, boot int64 }

func systemKernel() kernel {
	return kernel{now: readClocks, set: setWall, step: stepWall, slew: slewWall, setRTC: setRTC,
		keeper: func(ctx context.Context) (string, error) { return findKeeper(ctx, "/proc") }}
}

func readClocks() clocks {
	read := func(id int32) int64 {
		var ts unix.Timespec
		// Every Linux has these clocks.
		_ = unix.ClockGettime(id, &ts)
		return ts.Nano()
	}
	// The wall clock last: what it is read for is on its way next.
	c := clocks{monotonic: read(unix.CLOCK_MONOTONIC), boot: read(unix.CLOCK_BOOTTIME)}
	c.wall = read(unix.CLOCK_REALTIME)
	return c
}

func setWall(unixNanos int64) error {
	ts := unix.NsecToTimespec(unixNanos)
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// stepWall adds to the wall clock, which loses no time between reading and setting.
func stepWall(nanos int64) error {
	sec, rest := nanos/1e9, nanos%1e9
	if rest < 0 {
		sec, rest = sec-1, rest+1e9
	}
	t := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO}
	setTimeval(&t.Time, sec, rest)
	_, err := unix.Adjtimex(&t)
	return err
}

// slewConstant is the time constant of the kernel's PLL: in each second the clock makes
// up for 1/2^(2+slewConstant) of what is left, half of it in 44 s.
const slewConstant = 4

// slewWall has the kernel's PLL move the wall clock. It leaves the frequency alone,
// which one measurement says nothing about.
func slewWall(nanos int64) error {
	var now unix.Timex
	if _, err := unix.Adjtimex(&now); err != nil {
		return err
	}
	t := unix.Timex{Modes: unix.ADJ_OFFSET | unix.ADJ_STATUS | unix.ADJ_TIMECONST | unix.ADJ_NANO}
	const writable = unix.STA_PPSFREQ | unix.STA_PPSTIME | unix.STA_INS | unix.STA_DEL | unix.STA_UNSYNC
	t.Status = now.Status&writable | unix.STA_PLL | unix.STA_FREQHOLD
	setLong(&t.Offset, nanos)
	setLong(&t.Constant, slewConstant)
	_, err := unix.Adjtimex(&t)
	return err
}

// setLong and setTimeval set C's long, whose size is that of the machine's words.
func setLong[T int32 | int64](field *T, v int64) { *field = T(v) }

func setTimeval(tv *unix.Timeval, sec, rest int64) {
	setLong(&tv.Sec, sec)
	setLong(&tv.Usec, rest)
}

// setRTC sets the hardware clock to the wall clock, by the ioctl that hwclock makes.
func setRTC() error {
	if b, err := os.ReadFile("/etc/adjtime"); err == nil && bytes.Contains(b, []byte("\nLOCAL")) {
		return errors.New("the hardware clock has local time (/etc/adjtime): it is left alone")
	}
	f, err := os.OpenFile("/dev/rtc0", os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("no hardware clock: %w", err)
	}
	defer f.Close()
	if err := unix.IoctlSetRTCTime(int(f.Fd()), rtcTime(time.Now().UTC().Round(time.Second))); err != nil {
		return fmt.Errorf("set the hardware clock: %w", err)
	}
	return nil
}

// rtcTime returns a time as struct rtc_time has it, which is that of tm(3).
func rtcTime(t time.Time) *unix.RTCTime {
	return &unix.RTCTime{Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()), Mday: int32(t.Day()),
		Mon: int32(t.Month()) - 1, Year: int32(t.Year()) - 1900, Wday: int32(t.Weekday()), Yday: int32(t.YearDay()) - 1}
}
