package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestLoss: a connection that is back within two seconds is not worth a word.
func TestLoss(t *testing.T) {
	for name, tt := range map[string]struct {
		lostFor time.Duration
		want    []string
	}{
		"short": {time.Second, nil},
		"long":  {12 * time.Second, []string{"lost", "back after 12s"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said []string
				l := &loss{say: func(text string) { said = append(said, text) }}
				l.back("back") // the first connection
				for range 2 {
					l.lost("lost", func() {})
					time.Sleep(tt.lostFor)
					synctest.Wait()
					l.back("back")
					time.Sleep(time.Minute)
				}
				if diff := cmp.Diff(append(slices.Clone(tt.want), tt.want...), said); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}
