package main

import (
	"os"
	"regexp"
	"strings"
	"time"
)

// vsockFixed is the day from which on kernels can have the fixes that native vsock
// with guests that are not trusted needs: CVE-2026-23069 and -23086 (February
// 2026: a guest makes its host queue data without bound) and -46214 (28 May 2026: a
// listener that takes no connections any more). Distributions carry them back to
// kernels of any version, so that it is the day of the build that tells.
var vsockFixed = time.Date(2026, time.May, 28, 0, 0, 0, 0, time.UTC)

// kernelBuilt returns the day on which a kernel was built, by what it says in
// /proc/sys/kernel/version: "#1 SMP Debian 6.1.148-1 (2025-08-26)" or "#1 SMP
// PREEMPT Tue Aug 26 10:00:00 UTC 2025". ok is false if it does not say.
func kernelBuilt(version string) (day time.Time, ok bool) {
	if m := isoDay.FindString(version); m != "" {
		day, err := time.Parse(time.DateOnly, m)
		return day, err == nil
	}
	words := strings.Fields(version)
	if len(words) < 6 {
		return time.Time{}, false
	}
	// The weekday and the time zone say nothing here.
	w := words[len(words)-6:]
	day, err := time.Parse("Jan 2 2006", strings.Join([]string{w[1], w[2], w[5]}, " "))
	return day, err == nil
}

var isoDay = regexp.MustCompile(`\b20[0-9]{2}-[01][0-9]-[0-3][0-9]\b`)

// kernel warns of a kernel that cannot have what native vsock needs.
func (d *doctor) kernel() {
	version, err := os.ReadFile("/proc/sys/kernel/version")
	if err != nil {
		return
	}
	if day, ok := kernelBuilt(string(version)); ok && day.Before(vsockFixed) {
		d.warn("kernel", "built on "+day.Format(time.DateOnly)+", before the fixes of vsock for CVE-2026-23069, CVE-2026-23086 and CVE-2026-46214: a guest could use up this machine's memory",
			"where guests are not trusted, update the kernel")
	}
}
