package agents

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const nameRule = "a name has 1 to 64 letters, digits, spaces, or . _ - and begins with a letter or a digit"

// validName is the rule for agents' names, in any script, and so for all keys:
// what passes can stand in an error, a path and a log line as it is.
func validName(s string) bool {
	if n := utf8.RuneCountInString(s); n < 1 || n > 64 {
		return false
	}
	for i, r := range s {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r):
		case i > 0 && (strings.ContainsRune(" ._-", r) || unicode.IsMark(r)): // a mark belongs to the letter before it
		default:
			return false
		}
	}
	return !strings.HasSuffix(s, " ")
}

// checkName refuses a field that is to be a name and is none.
func checkName(field Value[string]) error {
	if !validName(field.V) {
		return fmt.Errorf("%s: is no name; %s", field.Where, nameRule)
	}
	return nil
}

// cure says how to mend a name that is none of the known; without a likely one,
// in the words of otherwise.
func cure(unknown string, known []string, otherwise string) string {
	nearest := slices.MinFunc(known, func(a, b string) int {
		return distance(unknown, a) - distance(unknown, b)
	})
	if distance(unknown, nearest) <= len(nearest)/3 {
		return fmt.Sprintf("did you mean %q?", nearest)
	}
	return otherwise
}

// distance counts the slips of the hand that make b of a: a byte inserted,
// left out or wrong, or two exchanged (Damerau 1964). Case doesn't count.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	d := make([][]int, len(a)+1) // d[i][j] is the distance of a[:i] and b[:j]
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			if i == 0 || j == 0 {
				d[i][j] = i + j
				continue
			}
			wrong := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				wrong++
			}
			d[i][j] = min(wrong, d[i-1][j]+1, d[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
