package main

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSummarize(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		name string
		in   []float64
		want summary
	}{
		{"nothing", nil, summary{}},
		{"all failed", []float64{nan, nan}, summary{}},
		{"one", []float64{3}, summary{3, 3, 3, 1}},
		{"odd, not in order", []float64{5, 1, 9}, summary{5, 1, 9, 3}},
		{"even", []float64{4, 1, 2, 10}, summary{3, 1, 10, 4}},
		{"one failed", []float64{nan, 1, 2}, summary{1.5, 1, 2, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := summarize(tt.in); got != tt.want {
				t.Errorf("summarize(%v) = %+v, want %+v", tt.in, got, tt.want)
			}
		})
	}
}

func TestSummarizeLeavesItsArgument(t *testing.T) {
	in := []float64{3, 1, 2}
	summarize(in)
	if diff := cmp.Diff([]float64{3, 1, 2}, in); diff != "" {
		t.Errorf("argument changed (-want +got):\n%s", diff)
	}
}

func TestRatios(t *testing.T) {
	nan := math.NaN()
	for _, tt := range []struct {
		name       string
		a, b, want []float64
	}{
		{"round by round", []float64{2, 9, 1}, []float64{1, 3, 4}, []float64{2, 3, 0.25}},
		{"a failed round on either side", []float64{nan, 2, 3}, []float64{1, nan, 1}, []float64{nan, nan, 3}},
		{"base of zero", []float64{1}, []float64{0}, []float64{nan}},
		{"base left out", []float64{1, 2}, nil, []float64{nan, nan}},
		{"base with fewer rounds", []float64{1, 2}, []float64{2}, []float64{0.5, nan}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ratios(tt.a, tt.b)
			equal := cmp.Comparer(func(x, y float64) bool { return x == y || math.IsNaN(x) && math.IsNaN(y) })
			if diff := cmp.Diff(tt.want, got, equal); diff != "" {
				t.Errorf("ratios(%v, %v) (-want +got):\n%s", tt.a, tt.b, diff)
			}
		})
	}
}

// The median of ratios is not the ratio of medians: a slow round counts once.
func TestMedianOfRatios(t *testing.T) {
	a, b := []float64{10, 1, 30}, []float64{10, 2, 10}
	if got := summarize(ratios(a, b)).median; got != 1 {
		t.Errorf("median of ratios = %v, want 1", got)
	}
}

func TestDigits(t *testing.T) {
	for in, want := range map[float64]string{
		0: "0.00", 0.0123: "0.012", 0.456: "0.46", 1.005: "1.00", 9.99: "9.99", 9.999: "10.0",
		12.34: "12.3", 123.4: "123", 9999: "9999", 12345: "12.3k", 774000: "774k", 1234567: "1235k",
	} {
		if got := digits(in); got != want {
			t.Errorf("digits(%v) = %q, want %q", in, got, want)
		}
	}
	if got := digits(math.NaN()); got != "-" {
		t.Errorf("digits(NaN) = %q, want -", got)
	}
}

func TestQuantile(t *testing.T) {
	q := newTimes()
	if got := q.quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing = %v, want 0", got)
	}
	for i := 100; i > 0; i-- {
		q.add(time.Duration(i))
	}
	for share, want := range map[float64]time.Duration{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := q.quantile(share); got != want {
			t.Errorf("quantile(%v) = %v, want %v", share, got, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	atLeast := goal{must: 0.8, goal: 0.9}
	atMost := goal{atMost: true, must: 6, goal: 4}
	onlyGoal := goal{must: none, goal: 4}
	for _, tt := range []struct {
		name  string
		goal  goal
		value float64
		want  string
	}{
		{"at least, missed", atLeast, 0.79, "**missed**"},
		{"at least, as printed", atLeast, 0.7951, "must"},
		{"at least, must", atLeast, 0.89, "must"},
		{"at least, goal", atLeast, 0.9, "goal"},
		{"at most, missed", atMost, 6.01, "**missed**"},
		{"at most, must", atMost, 4.02, "must"},
		{"at most, goal", atMost, 4.004, "goal"},
		{"goal only, not reached", onlyGoal, 3, "75 % of goal"},
		{"goal only, reached", onlyGoal, 8, "goal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.goal.verdict(summary{median: tt.value, n: 1}); got != tt.want {
				t.Errorf("verdict of %v = %q, want %q", tt.value, got, tt.want)
			}
		})
	}
	if got := atLeast.verdict(summary{}); got != "not measured" {
		t.Errorf("verdict of nothing = %q", got)
	}
}
