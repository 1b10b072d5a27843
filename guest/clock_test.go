package guest

import (
	"math"
	"testing"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestClockReading(t *testing.T) {
	const begin = int64(1_700_000_000_000_000_000)
	for name, tt := range map[string]struct {
		took           time.Duration
		received, sent int64 // since begin
		offset, wrong  time.Duration
	}{
		"the same":           {10, 5, 5, 0, 6},
		"ahead":              {100, 1050, 1070, 1010, 41},
		"behind":             {100, -950, -930, -990, 41},
		"slow there":         {100, 90, 90, 40, 51}, // within its error of 0
		"slow back":          {100, 10, 10, -40, 51},
		"set back meanwhile": {100, 50, -1_000_000, -500_025, 51},
		"odd":                {3, 2, 2, 1, 2},
		"most":               {10, math.MaxInt64 - begin, math.MaxInt64 - begin, time.Duration(math.MaxInt64 - begin - 5), 6},
		"least":              {10, -begin, -begin, time.Duration(-begin - 5), 6},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := clockReading(begin, tt.took, &guestv1.ReadClockResponse{ReceivedUnixNanos: begin + tt.received, SentUnixNanos: begin + tt.sent, MonotonicNanos: 1, BoottimeNanos: 2})
			if err != nil {
				t.Fatal(err)
			}
			if d := r.Offset - tt.offset; d < -1 || d > 1 || r.Error != tt.wrong || r.Monotonic != 1 || r.Boot != 2 {
				t.Errorf("offset %d, error %d, want %d, %d", r.Offset, r.Error, tt.offset, tt.wrong)
			}
		})
	}
	for _, bad := range []*guestv1.ReadClockResponse{{ReceivedUnixNanos: -1}, {SentUnixNanos: math.MinInt64}, {MonotonicNanos: math.MaxUint64}, {BoottimeNanos: 1 << 63}} {
		if _, err := clockReading(begin, 1, bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
