package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxRange is how many ports a range may have.
const maxRange = 1024

// expandRanges replaces the ranges of ports in the fields of a forward, such as
// 8000-8009, by their ports: one list of fields for each. All ranges of a forward
// are equally long. Fields without a range are returned as they are.
func expandRanges(fields []string) ([][]string, error) {
	var out [][]string
	for i, field := range fields {
		ports, protocol, suffixed := strings.Cut(field, "/")
		first, last, ok := parseRange(ports)
		if !ok || suffixed && i != len(fields)-1 {
			continue
		}
		n := last - first + 1
		switch {
		case n < 1:
			return nil, fmt.Errorf("the range %s runs backwards", ports)
		case n > maxRange:
			return nil, fmt.Errorf("the range %s has more than %d ports", ports, maxRange)
		case out != nil && len(out) != n:
			return nil, errors.New("the ranges are not equally long")
		}
		if out == nil {
			for range n {
				out = append(out, append([]string(nil), fields...))
			}
		}
		for j := range n {
			port := strconv.Itoa(first + j)
			if suffixed {
				port += "/" + protocol
			}
			out[j][i] = port
		}
	}
	if out == nil {
		out = [][]string{fields}
	}
	return out, nil
}

// parseRange parses FIRST-LAST.
func parseRange(s string) (first, last int, ok bool) {
	a, b, ok := strings.Cut(s, "-")
	if !ok || !isPort(a) || !isPort(b) {
		return 0, 0, false
	}
	first, _ = strconv.Atoi(a)
	last, _ = strconv.Atoi(b)
	return first, last, first > 0
}
