package vmtest

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
)

// follow copies what a lab prints from r to w, line by line, until the job's
// last mark or the end of r, and returns the exit code of each run by name. It
// calls booted at the first mark. The error says why the job as a whole did not
// come to its end.
func follow(r io.Reader, w io.Writer, booted func()) (codes map[string]int, err error) {
	codes = make(map[string]int)
	in := bufio.NewReader(r)
	var last Event
	for {
		line, readErr := in.ReadString('\n')
		printed, e, ok := cutMark(strings.TrimRight(line, "\r\n"))
		if printed != "" || !ok && readErr == nil {
			fmt.Fprintln(w, printed)
		}
		if ok {
			if last.Kind == "" {
				booted()
			}
			switch e.Kind {
			case "start":
				fmt.Fprintf(w, "=== lab: %s\n", e.Run)
			case "exit":
				codes[e.Run] = e.Code
				fmt.Fprintf(w, "=== lab: %s: exit code %d (%v)\n", e.Run, e.Code, e.Took.Round(10*time.Millisecond))
			case "error":
				return codes, fmt.Errorf("lab init: %s", e.Text)
			case "done":
				return codes, nil
			}
			last = e
		}
		if readErr != nil {
			what := "while booting"
			if last.Run != "" {
				what = "in " + last.Run
			}
			return codes, fmt.Errorf("the machine ended %s", what)
		}
	}
}
