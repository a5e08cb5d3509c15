package table

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// What the leaves have in common.

// CheckKey and the four below are what every leaf asks of its arguments before it
// does anything. Their errors name the fault.
func CheckKey(k Key) error {
	if err := checkHalf("partition", k.Partition); err != nil {
		return err
	}
	return checkHalf("sort key", k.Sort)
}

func checkHalf(name, s string) error {
	if s == "" || len(s) > MaxKey || !utf8.ValidString(s) {
		return fmt.Errorf("a %s is 1 to %d bytes of UTF-8, not %d", name, MaxKey, len(s))
	}
	return nil
}

// CheckPut is the arguments of a Put.
func CheckPut(k Key, value []byte, expected int64) error {
	if err := CheckKey(k); err != nil {
		return err
	}
	if len(value) > MaxValue {
		return ErrTooLarge
	}
	if expected < 0 {
		return fmt.Errorf("an expected version is 0 or more, not %d", expected)
	}
	return nil
}

// CheckDelete is the arguments of a Delete.
func CheckDelete(k Key, expected int64) error {
	if err := CheckKey(k); err != nil {
		return err
	}
	if expected < 1 {
		return fmt.Errorf("a version to delete is 1 or more, not %d", expected)
	}
	return nil
}

// CheckList is the arguments of a List.
func CheckList(partition string, q Query) error {
	if err := checkHalf("partition", partition); err != nil {
		return err
	}
	if q.Limit < 1 || q.Limit > MaxList {
		return fmt.Errorf("a limit is 1 to %d, not %d", MaxList, q.Limit)
	}
	if q.After == "" {
		return nil
	}
	return checkHalf("sort key", q.After)
}

// CheckAdd is the arguments of an Add.
func CheckAdd(k Key, deltas []Delta) error {
	if err := CheckKey(k); err != nil {
		return err
	}
	if len(deltas) == 0 {
		return fmt.Errorf("nothing to add: name a counter")
	}
	for i, d := range deltas {
		switch d.Counter {
		case "", "pk", "sk", "ver", "exp", "val":
			return fmt.Errorf("a counter can't be called %q", d.Counter)
		}
		if len(d.Counter) > 255 || !utf8.ValidString(d.Counter) {
			return fmt.Errorf("a counter's name is 1 to 255 bytes of UTF-8, not %d", len(d.Counter))
		}
		for _, other := range deltas[:i] {
			if other.Counter == d.Counter {
				return fmt.Errorf("counter %q is added to twice", d.Counter)
			}
		}
	}
	return nil
}

// Fits reports whether an Add to counters that stand where stands says is to be
// done. The error is of a counter that would leave 64 bits.
func Fits(deltas []Delta, max int64, stands func(counter string) int64) (bool, error) {
	for i, d := range deltas {
		before := stands(d.Counter)
		sum := before + d.By
		wraps := (sum < before) != (d.By < 0)
		if i == 0 && (wraps && d.By > 0 || !wraps && sum > max) {
			return false, nil
		}
		if wraps {
			return false, fmt.Errorf("counter %q would leave 64 bits", d.Counter)
		}
	}
	return true, nil
}

// WholeSecond is an expiry, rounded up; zero stays zero.
func WholeSecond(t time.Time) time.Time {
	return time.Unix(t.Add(time.Second-1).Unix(), 0).UTC()
}
