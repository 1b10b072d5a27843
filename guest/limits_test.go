package guest

import (
	"io/fs"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestLimits(t *testing.T) {
	for _, test := range []struct {
		limits *Limits
		want   *guestv1.ResourceLimits
	}{
		{nil, nil},
		{&Limits{}, nil},
		{&Limits{Memory: 100 << 20}, &guestv1.ResourceLimits{MemoryBytes: new(uint64(100 << 20))}},
		{&Limits{CPUs: 1.5, Processes: 7}, &guestv1.ResourceLimits{CpuMillis: new(uint64(1500)), Processes: new(uint64(7))}},
		{&Limits{CPUs: 0.0001}, &guestv1.ResourceLimits{CpuMillis: new(uint64(1))}},
		{&Limits{Nice: new(0), Umask: new(fs.FileMode(0))}, &guestv1.ResourceLimits{Nice: new(int32(0)), Umask: new(uint32(0))}},
		{&Limits{Rlimits: []Rlimit{{"nofile", 10, Unlimited}}, NoNewPrivileges: true, DropCapabilities: []string{"CAP_NET_RAW"}},
			&guestv1.ResourceLimits{Rlimits: []*guestv1.Rlimit{{Name: "nofile", Soft: 10, Hard: 1<<64 - 1}}, NoNewPrivileges: true, DropCapabilities: []string{"CAP_NET_RAW"}}},
	} {
		if got := test.limits.message(); !proto.Equal(got, test.want) || (got == nil) != (test.want == nil) {
			t.Errorf("%+v: %v, want %v", test.limits, got, test.want)
		}
	}
}

// TestReconnector shows what begins anew when a connection was there: the limit, and
// the delay only if it was of use.
func TestReconnector(t *testing.T) {
	r := reconnector{limit: time.Hour}
	if r.left() != time.Hour {
		t.Errorf("%v left before a loss", r.left())
	}
	var last time.Duration
	for range 10 {
		last, _ = r.next()
	}
	if last != lastRetry || r.left() >= time.Hour {
		t.Errorf("delay %v, %v left", last, r.left())
	}
	r.reached()
	if d, ok := r.next(); d != lastRetry || !ok {
		t.Errorf("a connection of no use: %v", d)
	}
	r.connected()
	if d, ok := r.next(); d != firstRetry || !ok {
		t.Errorf("a connection of use: %v", d)
	}
	r.lostAt = time.Now().Add(-time.Hour)
	if _, ok := r.next(); ok || r.left() > 0 {
		t.Errorf("after the limit: %v left", r.left())
	}
}
