package archive

import (
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// maxNanoSeconds bounds the seconds, either way from 1970, of the times whose
// nanoseconds an int64 has room for.
const maxNanoSeconds = 1<<63/1_000_000_000 - 1

// WireTime returns a time as messages have it: its nanoseconds since 1970 and no
// seconds or, of a time that is too far away for that, its seconds and what is to be
// added to them.
func WireTime(t time.Time) (nanos, seconds int64) {
	if s := t.Unix(); s < -maxNanoSeconds || s > maxNanoSeconds {
		return int64(t.Nanosecond()), s
	}
	return t.UnixNano(), 0
}

// TimeOf returns the time that a message has.
func TimeOf(nanos, seconds int64) time.Time { return time.Unix(seconds, nanos) }

// modified returns the time of modification of an entry.
func modified(e *guestv1.Entry) time.Time {
	return TimeOf(e.GetModifiedUnixNanos(), e.GetModifiedUnixSeconds())
}

// setModified sets the time of modification of an entry.
func setModified(e *guestv1.Entry, t time.Time) {
	e.ModifiedUnixNanos, e.ModifiedUnixSeconds = WireTime(t)
}

// sameTime reports whether here, where times may be kept in seconds, a file has
// a time of the sender's.
func sameTime(here, there time.Time) bool {
	return here.Equal(there) || here.Nanosecond() == 0 && here.Unix() == there.Unix()
}
