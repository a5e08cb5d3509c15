// Package tabletest holds what every leaf of package table promises. A leaf's
// test calls Run with a way to open it; memory, sqlite and dynamodb answer alike,
// so domain packages are tested over memory alone.
//
//	func TestTable(t *testing.T) { tabletest.Run(t, open) }
//
// A row is a story in steps: what is done, and what must come of it. The clock
// stands still unless a step moves it. What can't be told as a story stands in
// its own file: what is refused (refused.go), what is large (large.go), and what
// many do at once (together.go).
package tabletest

import (
	"testing"
	"time"

	"postern/shared/table"
)

// Open gives a test an empty store of its own, whose time is now's, and closes
// it with the test's Cleanup.
type Open func(t *testing.T, now func() time.Time) table.Table

// Run holds the leaf that open opens to all of it. Each subtest opens once.
func Run(t *testing.T, open Open) {
	for name, rows := range map[string][]row{
		"get, put, delete": values,
		"expiry":           expiries,
		"list":             lists,
		"add":              counters,
	} {
		for _, r := range rows {
			t.Run(name+": "+r.name, func(t *testing.T) {
				t.Parallel()
				x := start(t, open)
				for i, do := range r.story {
					if x.step = i + 1; t.Failed() {
						break // what follows a failed step only distracts
					}
					do(x)
				}
			})
		}
	}
	refused(t, open)
	large(t, open)
	together(t, open)
}

type row struct {
	name  string
	story []step
}

var values = []row{
	{"what nobody put isn't there", story(
		absent("p/a"), list("p", ""))},
	{"an item is what was put, of version 1", story(
		put("p/a", "one", 0), holds("p/a", "one", 1))},
	{"each put over the version that was read makes the next", story(
		put("p/a", "one", 0), put("p/a", "two", 1), put("p/a", "three", 2), holds("p/a", "three", 3))},
	{"an empty value is a value", story(
		put("p/a", "", 0), holds("p/a", "", 1), put("p/a", "x", 1), put("p/a", "", 2), holds("p/a", "", 3))},
	{"a value is any bytes", story(
		put("p/a", "\x00\xff\xfe{\"\n", 0), holds("p/a", "\x00\xff\xfe{\"\n", 1))},
	{"put of a new item over one that is there changes nothing", story(
		put("p/a", "one", 0), clash("p/a", 0), holds("p/a", "one", 1))},
	{"put over another version changes nothing", story(
		put("p/a", "one", 0), put("p/a", "two", 1), clash("p/a", 1), clash("p/a", 3), clash("p/a", 0), holds("p/a", "two", 2))},
	{"put over a version of an item that isn't there makes none", story(
		clash("p/a", 1), absent("p/a"), list("p", ""))},
	{"a put that clashes leaves the expiry alone", story(
		putUntil("p/a", "one", 0, 10*sec), clash("p/a", 7), at(10*sec), absent("p/a"))},
	{"a deleted item is gone", story(
		put("p/a", "one", 0), remove("p/a", 1), absent("p/a"), list("p", ""))},
	{"delete of another version changes nothing", story(
		put("p/a", "one", 0), put("p/a", "two", 1), keep("p/a", 1), keep("p/a", 3), holds("p/a", "two", 2))},
	{"delete of what isn't there is a conflict", story(
		keep("p/a", 1), put("p/a", "one", 0), remove("p/a", 1), keep("p/a", 1))},
	{"after a delete versions begin at 1 again", story(
		put("p/a", "one", 0), put("p/a", "two", 1), remove("p/a", 2), clash("p/a", 2), put("p/a", "three", 0), holds("p/a", "three", 1))},
	{"items of one partition are told apart", story(
		put("p/a", "one", 0), put("p/b", "two", 0), put("p/b", "three", 1), remove("p/a", 1), absent("p/a"), holds("p/b", "three", 2))},
	{"items of one sort key in several partitions are told apart", story(
		put("p/a", "one", 0), put("q/a", "two", 0), put("q/a", "three", 1), remove("p/a", 1), absent("p/a"), holds("q/a", "three", 2))},
	{"a key is two halves, not what they are joined to", story(
		put("p/ab", "one", 0), absent("pa/b"), put("pa/b", "two", 0), holds("p/ab", "one", 1), holds("pa/b", "two", 1))},
	{"upper and lower case, and what merely looks alike, are different keys", story(
		put("p/a", "one", 0), put("p/A", "two", 0), put("P/a", "three", 0), put("p/é", "four", 0), put("p/e\u0301", "five", 0), put("p/a ", "six", 0),
		holds("p/a", "one", 1), holds("p/A", "two", 1), holds("P/a", "three", 1), holds("p/é", "four", 1), holds("p/e\u0301", "five", 1), holds("p/a ", "six", 1))},
	{"keys that look like numbers, patterns or statements are only bytes", story(
		put("p/1", "one", 0), put("p/01", "two", 0), put("p/1.0", "three", 0), put("p/%", "four", 0), put("p/' OR 1=1 --", "five", 0), put("p/a\x00b", "six", 0),
		absent("p/a"), absent("p/a\x00"), holds("p/1", "one", 1), holds("p/01", "two", 1), holds("p/1.0", "three", 1), holds("p/a\x00b", "six", 1),
		listKeys("p", "%", "' OR 1=1 --", "01", "1", "1.0", "a\x00b"))},
}

var expiries = []row{
	{"an item without an expiry stays", story(
		put("p/a", "one", 0), at(20_000*time.Hour), holds("p/a", "one", 1), put("p/a", "two", 1))},
	{"an item is there until its second, and absent from then on", story(
		putUntil("p/a", "one", 0, 10*sec), at(10*sec-ns), holdsUntil("p/a", "one", 1, 10*sec), list("p", "a"), at(10*sec), absent("p/a"), list("p", ""), at(11*sec), absent("p/a"))},
	{"a fraction of a second is rounded up", story(
		putUntil("p/a", "one", 0, 9*sec+ns), holdsUntil("p/a", "one", 1, 10*sec), at(10*sec-ns), holdsUntil("p/a", "one", 1, 10*sec), at(10*sec), absent("p/a"))},
	{"almost a whole second is rounded up, not on", story(
		putUntil("p/a", "one", 0, 10*sec-ns), holdsUntil("p/a", "one", 1, 10*sec))},
	{"an expiry in another time zone is the same moment", story(
		func(x *exam) {
			x.put("p/a", "one", 0, ten.Add(10*sec).In(time.FixedZone("", 5*60*60)))
		}, holdsUntil("p/a", "one", 1, 10*sec))},
	{"what is put with an expiry that has passed is absent at once", story(
		putUntil("p/a", "one", 0, 0), absent("p/a"), list("p", ""), putUntil("p/a", "one", 0, -time.Hour), absent("p/a"), put("p/a", "two", 0), holds("p/a", "two", 1))},
	{"the epoch and what was before it have passed, and are not never", story(
		func(x *exam) { x.put("p/a", "one", 0, time.Unix(0, 0)) }, absent("p/a"), func(x *exam) { x.put("p/a", "one", 0, time.Unix(-1, 0)) }, absent("p/a"))},
	{"the year 9999 is far away", story(
		func(x *exam) { x.put("p/a", "one", 0, year9999) }, at(50_000*time.Hour),
		func(x *exam) {
			x.item("p/a", table.Item{Key: key("p/a"), Value: []byte("one"), Version: 1, Expires: year9999})
		})},
	{"each put says the expiry anew", story(
		putUntil("p/a", "one", 0, 10*sec), putUntil("p/a", "two", 1, 20*sec), at(10*sec), holdsUntil("p/a", "two", 2, 20*sec),
		put("p/a", "three", 2), at(20*sec), holds("p/a", "three", 3), putUntil("p/a", "four", 3, 30*sec), at(30*sec), absent("p/a"))},
	{"over an expired item is put as if it weren't there", story(
		putUntil("p/a", "one", 0, 10*sec), putUntil("p/a", "two", 1, 10*sec), at(10*sec), put("p/a", "three", 0), holds("p/a", "three", 1))},
	{"an expired item has no version to put over", story(
		putUntil("p/a", "one", 0, 10*sec), at(10*sec), clash("p/a", 1), absent("p/a"), clash("p/a", 2), absent("p/a"))},
	{"an expired item has no version to delete", story(
		putUntil("p/a", "one", 0, 10*sec), at(10*sec), keep("p/a", 1), absent("p/a"))},
	{"expired items don't shorten a list or a page", story(
		putUntil("p/a", "-", 0, sec), put("p/b", "b", 0), putUntil("p/c", "-", 0, sec), putUntil("p/d", "-", 0, sec), put("p/e", "e", 0), putUntil("p/f", "-", 0, sec), put("p/g", "g", 0), putUntil("p/h", "-", 0, sec),
		list("p", "a b", limit(2)), at(sec),
		list("p", "b e g"), list("p", "b e", limit(2)), list("p", "g e", limit(2), reversed), list("p", "e g", limit(2), after("b")), list("p", "e b", after("g"), reversed))},
	{"a list can go on behind an item that has expired since", story(
		putUntil("p/a", "-", 0, sec), put("p/b", "b", 0), list("p", "a", limit(1)), at(sec), list("p", "b", after("a")))},
}

var lists = []row{
	{"items come in the order of their sort keys, whatever the order of writing", story(
		put("p/c", "-", 0), put("p/a", "-", 0), put("p/d", "-", 0), put("p/b", "-", 0), list("p", "a b c d"), list("p", "d c b a", reversed))},
	{"items come whole", story(
		putUntil("p/a", "one", 0, 10*sec), put("p/b", "two", 0), put("p/b", "three", 1),
		listItems("p", table.Item{Key: key("p/a"), Value: []byte("one"), Version: 1, Expires: ten.Add(10 * sec)}, table.Item{Key: key("p/b"), Value: []byte("three"), Version: 2}))},
	{"the order is the bytes', not a language's and not UTF-16's", story(
		put("p/é", "-", 0), put("p/z", "-", 0), put("p/a", "-", 0), put("p/Z", "-", 0), put("p/\U0001f600", "-", 0), put("p/\uffee", "-", 0), put("p/10", "-", 0), put("p/9", "-", 0), put("p/a0", "-", 0), put("p/-", "-", 0),
		list("p", "- 10 9 Z a a0 z é \uffee \U0001f600"), list("p", "\U0001f600 \uffee é z a0 a Z 9 10 -", reversed))},
	{"a key stands before those that it begins", story(
		put("p/ab", "-", 0), put("p/a", "-", 0), put("p/abc", "-", 0), put("p/b", "-", 0), list("p", "a ab abc b"), list("p", "ab abc b", after("a")))},
	{"after is excluded, in both directions", story(
		put("p/a", "-", 0), put("p/b", "-", 0), put("p/c", "-", 0),
		list("p", "b c", after("a")), list("p", "c", after("b")), list("p", "", after("c")), list("p", "b a", after("c"), reversed), list("p", "a", after("b"), reversed), list("p", "", after("a"), reversed))},
	{"after needn't be there", story(
		put("p/b", "-", 0), put("p/d", "-", 0),
		list("p", "b d", after("a")), list("p", "d", after("c")), list("p", "", after("e")), list("p", "d", after("b\x00")), list("p", "d b", after("e"), reversed), list("p", "b", after("c"), reversed), list("p", "", after("a"), reversed))},
	{"no more than the limit", story(
		put("p/a", "-", 0), put("p/b", "-", 0), put("p/c", "-", 0),
		list("p", "a", limit(1)), list("p", "a b", limit(2)), list("p", "a b c", limit(3)), list("p", "a b c", limit(4)), list("p", "c b", limit(2), reversed), list("p", "b", limit(1), after("a")))},
	{"a partition ends where the next begins, also one that it begins", story(
		put("key#/b", "-", 0), put("key#1/a", "-", 0), put("key#1/c", "-", 0), put("key#10/b", "-", 0), put("key#2/a", "-", 0), put("key/z", "-", 0),
		list("key#", "b"), list("key#1", "a c"), list("key#10", "b"), list("key", "z"), list("ke", ""), list("key#1", "c a", reversed), list("key#1", "", after("c")), list("key#1", "", after("a"), reversed))},
	{"deleted items are not listed", story(
		put("p/a", "-", 0), put("p/b", "-", 0), put("p/c", "-", 0), remove("p/b", 1), list("p", "a c"), list("p", "a c", limit(2)))},
	{"values and counters stand in one list", story(
		put("p/a", "one", 0), add("p/b", 1, table.NoMax, never, delta("n", 1)), putUntil("p/c", "two", 0, 9*sec), add("p/d", 5, table.NoMax, 10*sec, delta("n", 5), delta("m", 6)),
		listItems("p", table.Item{Key: key("p/a"), Value: []byte("one"), Version: 1}, table.Item{Key: key("p/b"), Counters: map[string]int64{"n": 1}},
			table.Item{Key: key("p/c"), Value: []byte("two"), Version: 1, Expires: ten.Add(9 * sec)}, table.Item{Key: key("p/d"), Counters: map[string]int64{"n": 5, "m": 6}, Expires: ten.Add(10 * sec)}),
		list("p", "d c", reversed, limit(2)), list("p", "b c", after("a"), limit(2)), at(9*sec), list("p", "b d", after("a"), limit(2)), at(10*sec), list("p", "b a", reversed, limit(2)))},
}

var counters = []row{
	{"a counter begins at 0", story(
		add("p/a", 3, table.NoMax, never, delta("n", 3)), counts("p/a", "n=3", never))},
	{"additions add up, and each says where its counter stands", story(
		add("p/a", 1, 10, never, delta("n", 1)), add("p/a", 5, 10, never, delta("n", 4)), add("p/a", 10, 10, never, delta("n", 5)), counts("p/a", "n=10", never))},
	{"several counters are added to at once, and the first one's value is told", story(
		add("p/a", 1, table.NoMax, never, delta("n", 1), delta("in", 700), delta("out", 30)), add("p/a", 701, table.NoMax, never, delta("in", 1), delta("n", 1)), counts("p/a", "n=2 in=701 out=30", never))},
	{"a counter that joins later begins at 0", story(
		add("p/a", 7, table.NoMax, never, delta("n", 7)), add("p/a", 1, 1, never, delta("m", 1)), counts("p/a", "n=7 m=1", never))},
	{"the maximum is reached, and not passed", story(
		add("p/a", 2, 3, never, delta("n", 2)), add("p/a", 3, 3, never, delta("n", 1)), refuse("p/a", 3, 3, never, delta("n", 1)), refuse("p/a", 3, 3, never, delta("n", 100)), counts("p/a", "n=3", never))},
	{"one step to the maximum, and one beyond", story(
		add("p/a", 3, 3, never, delta("n", 3)), refuse("p/b", 0, 3, never, delta("n", 4)), absent("p/b"), list("p", "a"))},
	{"a refused addition to nothing leaves nothing", story(
		refuse("p/a", 0, 0, never, delta("n", 1), delta("m", 1)), absent("p/a"), list("p", ""), refuse("p/a", 0, -1, never, delta("n", 1)), absent("p/a"))},
	{"a refused addition changes no counter and no expiry", story(
		add("p/a", 3, 3, 10*sec, delta("n", 3), delta("m", 1)), refuse("p/a", 3, 3, 20*sec, delta("n", 1), delta("m", 1)), refuse("p/a", 3, 3, never, delta("n", 1), delta("new", 1)),
		counts("p/a", "n=3 m=1", 10*sec), at(10*sec), absent("p/a"))},
	{"the maximum is the first counter's alone", story(
		add("p/a", 1, 3, never, delta("n", 1), delta("m", 100)), add("p/a", 2, 3, never, delta("n", 1), delta("m", 100)), refuse("p/a", 200, 199, never, delta("m", 0), delta("n", 1)), counts("p/a", "n=2 m=200", never))},
	{"a later, lower maximum refuses; a higher one lets on", story(
		add("p/a", 5, 5, never, delta("n", 5)), refuse("p/a", 5, 3, never, delta("n", 1)), add("p/a", 6, 6, never, delta("n", 1)))},
	{"negative deltas take away, below zero too", story(
		add("p/a", 5, 5, never, delta("n", 5), delta("m", 5)), add("p/a", 4, table.NoMax, never, delta("n", -1), delta("m", -7)), counts("p/a", "n=4 m=-2", never), add("p/a", -6, table.NoMax, never, delta("n", -10)), add("p/b", -1, 0, never, delta("n", -1)), counts("p/b", "n=-1", never))},
	{"what was given back can be taken again", story(
		add("p/a", 3, 3, never, delta("n", 3)), add("p/a", 2, table.NoMax, never, delta("n", -1)), add("p/a", 3, 3, never, delta("n", 1)), refuse("p/a", 3, 3, never, delta("n", 1)))},
	{"a negative delta that stays above the maximum is refused", story(
		add("p/a", 5, 5, never, delta("n", 5)), refuse("p/a", 5, 3, never, delta("n", -1)), add("p/a", 3, 3, never, delta("n", -2)))},
	{"a delta of 0 asks, and is refused above the maximum", story(
		add("p/a", 5, 5, never, delta("n", 5)), add("p/a", 5, 5, never, delta("n", 0)), refuse("p/a", 5, 4, never, delta("n", 0)), add("p/b", 0, 0, never, delta("n", 0)), counts("p/b", "n=0", never))},
	{"no maximum is none", story(
		add("p/a", 1<<40, table.NoMax, never, delta("n", 1<<40)), add("p/a", 1<<41, table.NoMax, never, delta("n", 1<<40)), counts("p/a", "n=2199023255552", never))},
	{"a counter never passes the largest number", story(
		add("p/a", 1<<62, table.NoMax, never, delta("n", 1<<62)), add("p/a", table.NoMax, table.NoMax, never, delta("n", 1<<62-1)), refuse("p/a", table.NoMax, table.NoMax, never, delta("n", 1)), counts("p/a", "n=9223372036854775807", never))},
	{"the least maximum and the least delta are only numbers", story(
		refuse("p/a", 0, -1<<63, never, delta("n", 0)), add("p/a", -1<<63, -1<<63, never, delta("n", -1<<63)), add("p/b", 1, table.NoMax, never, delta("n", 1)), add("p/b", -1<<63+1, table.NoMax, never, delta("n", -1<<63)))},
	{"each addition says the expiry anew", story(
		add("p/a", 1, table.NoMax, 10*sec, delta("n", 1)), add("p/a", 2, table.NoMax, 20*sec, delta("n", 1)), at(10*sec), counts("p/a", "n=2", 20*sec),
		add("p/a", 3, table.NoMax, never, delta("n", 1)), at(20*sec), counts("p/a", "n=3", never), add("p/a", 4, table.NoMax, 21*sec, delta("n", 1)), at(21*sec), absent("p/a"))},
	{"a counter's expiry is rounded up to the second", story(
		add("p/a", 1, table.NoMax, 9*sec+ns, delta("n", 1)), counts("p/a", "n=1", 10*sec), at(10*sec-ns), add("p/a", 2, 2, 9*sec+ns, delta("n", 1)), at(10*sec), absent("p/a"))},
	{"expired counters begin at 0 again, all of them", story(
		add("p/a", 3, 3, 10*sec, delta("n", 3), delta("m", 7)), at(10*sec-ns), refuse("p/a", 3, 3, 10*sec, delta("n", 1)), at(10*sec), absent("p/a"), add("p/a", 1, 3, 20*sec, delta("n", 1)), counts("p/a", "n=1", 20*sec), list("p", "a"))},
	{"a refused addition to expired counters leaves nothing and says 0", story(
		add("p/a", 3, 3, 10*sec, delta("n", 3)), at(10*sec), refuse("p/a", 0, 3, 20*sec, delta("n", 4)), absent("p/a"), list("p", ""), add("p/a", 3, 3, 20*sec, delta("n", 3)), counts("p/a", "n=3", 20*sec))},
	{"what is added with an expiry that has passed is told, and absent", story(
		add("p/a", 1, 3, 0, delta("n", 1)), absent("p/a"), list("p", ""), add("p/a", 1, 3, -time.Hour, delta("n", 1)), add("p/a", 2, 3, 10*sec, delta("n", 2)), counts("p/a", "n=2", 10*sec))},
	{"counters of different items are told apart", story(
		add("p/a", 1, 1, never, delta("n", 1)), add("p/b", 1, 1, never, delta("n", 1)), add("q/a", 1, 1, never, delta("n", 1)), refuse("p/a", 1, 1, never, delta("n", 1)), refuse("p/b", 1, 1, never, delta("n", 1)), refuse("q/a", 1, 1, never, delta("n", 1)))},
	{"counters are told apart by any name", story(
		add("p/a", 1, table.NoMax, never, delta("N", 1), delta("n", 2), delta("é", 3), delta("gpt-4.1 (in)", 4), delta("size", 5), delta("#a", 6), delta(":b", 7), delta("a.b", 8), delta("n[0]", 9), delta("' --", 10)),
		add("p/a", 2, 2, never, delta("N", 1)), refuse("p/a", 3, 3, never, delta("é", 1)),
		func(x *exam) {
			x.item("p/a", table.Item{Key: key("p/a"), Counters: map[string]int64{"N": 2, "n": 2, "é": 3, "gpt-4.1 (in)": 4, "size": 5, "#a": 6, ":b": 7, "a.b": 8, "n[0]": 9, "' --": 10}})
		})},
}
