package main

import (
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

func TestProgress(t *testing.T) {
	tests := []struct {
		now       guest.CopyProgress
		bar, line string
	}{
		{guest.CopyProgress{Path: "f", Files: 1, Bytes: 0, Total: 4 << 20}, "[--------------------] ", "0B/s 0B  f"},
		{guest.CopyProgress{Path: "f", Files: 1, Bytes: 1 << 20, Total: 4 << 20}, "[#####---------------] ", "512K/s 1.0M of 4.0M, 25%, 6s left  f"},
		{guest.CopyProgress{Path: "f", Files: 1, Bytes: 4 << 20, Total: 4 << 20}, "[####################] ", "2.0M/s 4.0M  f"},
		{guest.CopyProgress{Path: "grows", Files: 1, Bytes: 5 << 20, Total: 4 << 20}, "", "2.5M/s 5.0M  grows"},
		{guest.CopyProgress{Path: "d/\x1b[31m", Files: 7, Bytes: 2 << 20, Total: 4 << 20}, "", `1.0M/s 2.0M, 7 files  d/\x1b[31m`},
		{guest.CopyProgress{Path: "endless", Files: 1, Bytes: 2 << 20}, "", "1.0M/s 2.0M  endless"},
	}
	for _, tt := range tests {
		if got := progressBar(tt.now); got != tt.bar {
			t.Errorf("%+v: bar %q, want %q", tt.now, got, tt.bar)
		}
		if got := progressLine(tt.now, 2*time.Second); got != tt.line {
			t.Errorf("%+v: line %q, want %q", tt.now, got, tt.line)
		}
	}
}
