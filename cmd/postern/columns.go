package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// columns writes rows for people, each column as wide as its widest cell.
func columns(w io.Writer, rows ...[]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, text := range row {
			if cells[i] = clean(text); text == "" {
				cells[i] = "-"
			}
		}
		io.WriteString(t, strings.Join(cells, "\t")+"\n") // Flush has its error
	}
	return t.Flush()
}

// maxCell is the longest text that is shown of something, in characters.
const maxCell = 4 << 10

// clean makes a text fit for a terminal, to which some characters are commands,
// and for one line.
func clean(s string) string {
	n := 0
	return strings.Map(func(r rune) rune {
		switch n++; {
		case n > maxCell:
			return -1
		case r == '\n':
			return ' '
		case !unicode.IsPrint(r):
			return utf8.RuneError
		}
		return r
	}, s)
}

// short is s, or its beginning where it is long.
func short(s string) string {
	const most = 40
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// moment is a time as people and --expires read it.
func moment(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// printJSON writes v in a line of standard output, for programs.
func printJSON(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// jsonLine writes JSON that is one line.
func jsonLine(w io.Writer, text json.RawMessage) error {
	_, err := fmt.Fprintf(w, "%s\n", text)
	return err
}
