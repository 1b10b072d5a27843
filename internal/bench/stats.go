package main

import (
	"math"
	"slices"
	"strconv"
)

// A summary is the median of some rounds and their extremes.
type summary struct {
	median, low, high float64
	n                 int // rounds; 0: nothing was measured
}

// summarize ignores rounds that are NaN: there the measurement failed.
func summarize(rounds []float64) summary {
	v := slices.DeleteFunc(slices.Clone(rounds), math.IsNaN)
	if len(v) == 0 {
		return summary{}
	}
	slices.Sort(v)
	return summary{(v[(len(v)-1)/2] + v[len(v)/2]) / 2, v[0], v[len(v)-1], len(v)}
}

// ratios divides round by round. A round that only one side has is NaN.
func ratios(a, b []float64) []float64 {
	r := make([]float64, max(len(a), len(b)))
	for i := range r {
		r[i] = math.NaN()
		if i < len(a) && i < len(b) && b[i] != 0 {
			r[i] = a[i] / b[i]
		}
	}
	return r
}

// digits prints v with three significant digits, and k for thousands.
func digits(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case math.Abs(v) >= 1e6:
		return strconv.FormatFloat(v/1e3, 'f', 0, 64) + "k"
	case math.Abs(v) >= 9999.5:
		return sig3(v/1e3) + "k"
	}
	return sig3(v)
}

func sig3(v float64) string {
	switch a := math.Abs(v); {
	case a >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.0995 || a == 0:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// rounded is v as sig3 prints it.
func rounded(v float64) float64 {
	r, err := strconv.ParseFloat(sig3(v), 64)
	if err != nil {
		return v
	}
	return r
}

func (s summary) String() string {
	if s.n == 0 {
		return "-"
	}
	return digits(s.median)
}

// spread prints the extremes.
func (s summary) spread() string {
	if s.n == 0 {
		return "-"
	}
	return digits(s.low) + "..." + digits(s.high)
}
