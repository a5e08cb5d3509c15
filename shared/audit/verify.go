package audit

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
)

// Report is what Verify has found, up to the first fault if there is one.
type Report struct {
	Events int64 // how many were read and found whole
	Head   Head  // of the last one of these; note it, for the next time

	// Unmatched are, by number, the intents without outcome and the outcomes
	// without intent. An intent may stand there because its act is still running,
	// because a process ended in the middle of it, or because the store failed:
	// look at what it was about. An outcome may because its intent stands before
	// the part of the chain that was read; else whoever wrote it wasn't Log.Do.
	Unmatched []Event
}

// Broken is Verify's error for a chain that isn't as it was written.
type Broken struct {
	Seq   int64  // the event that is wrong, or lacking
	Fault string // what is wrong with it
}

func (b *Broken) Error() string {
	return fmt.Sprintf("the audit chain is broken at event %d: %s", b.Seq, b.Fault)
}

// Verify reads a chain and stops at its first fault, which is a *Broken; any
// other error is the reader's own, or about what was asked for.
//
// The chain begins behind after: the zero Head for the whole chain, or the head
// of an event that is known to be good, for the part behind it. Each of logged
// is an event's head that was noted elsewhere; the chain must go on to it, and
// have that very hash there. Against a logged head every change of the events up
// to it is found. Behind the last one, what was cut off is not missed, and who
// can write to the table can have written all anew.
//
// An outcome belongs to the latest intent before it that has none yet and the
// same request id, action and target. Apart from what is returned, only the
// intents without outcome are held in memory.
func Verify(events iter.Seq2[Event, error], after Head, logged ...Head) (Report, error) {
	report := Report{Head: after}
	pairs := pairs{open: map[act][]Event{}}
	err := func() error {
		hashes, err := known(after, logged)
		if err != nil {
			return err
		}
		for e, err := range events {
			if err != nil {
				return err
			}
			if fault := follows(e, report.Head, hashes); fault != nil {
				return fault
			}
			report.Head = e.Head()
			report.Events++
			pairs.add(e)
		}
		for _, h := range logged {
			if h.Seq > report.Head.Seq {
				return &Broken{h.Seq, fmt.Sprintf("it was logged, and the chain ends at event %d: its end was cut off", report.Head.Seq)}
			}
		}
		return nil
	}()
	report.Unmatched = pairs.unmatched()
	return report, err
}

// known is the logged hashes by number.
func known(after Head, logged []Head) (map[int64]string, error) {
	if after.Seq < 0 || (after.Seq == 0) != (after.Hash == "") {
		return nil, fmt.Errorf("a chain begins behind event %d and its hash: give both, or neither for the whole chain", after.Seq)
	}
	hashes := map[int64]string{}
	for _, h := range append([]Head{after}, logged...) {
		if h != after && (h.Seq < 1 || h.Hash == "") {
			return nil, fmt.Errorf("a logged head has the number of an event and its hash, not %d and %q", h.Seq, h.Hash)
		}
		if h.Seq < after.Seq {
			return nil, fmt.Errorf("the logged event %d is not in the part of the chain behind event %d: verify from further before", h.Seq, after.Seq)
		}
		if hash, twice := hashes[h.Seq]; twice && hash != h.Hash {
			return nil, &Broken{h.Seq, "two different hashes were logged for it"}
		}
		hashes[h.Seq] = h.Hash
	}
	return hashes, nil
}

// follows finds what is wrong with e as the event behind head.
func follows(e Event, head Head, logged map[int64]string) error {
	next := head.Seq + 1
	hash, noted := logged[e.Seq]
	switch {
	case e.Seq > next:
		return &Broken{next, fmt.Sprintf("it is missing: event %d comes instead", e.Seq)}
	case e.Seq < next:
		return &Broken{next, fmt.Sprintf("event %d comes instead: events were inserted or reordered", e.Seq)}
	case e.PreviousHash != head.Hash:
		return &Broken{e.Seq, "its previous_hash is not the hash of the event before: one of the two was altered or replaced"}
	case e.Hash != e.hash():
		return &Broken{e.Seq, "it was altered: its hash is not that of what it says"}
	case noted && e.Hash != hash:
		return &Broken{e.Seq, "another hash was logged for it: it, or something before it, was written anew"}
	}
	return nil
}

// pairs matches outcomes with intents.
type pairs struct {
	open    map[act][]Event // intents without outcome
	orphans []Event         // outcomes without intent
}

// act is what an intent and its outcome have in common.
type act struct{ requestID, action, target string }

func (p *pairs) add(e Event) {
	action, outcome := e.Act()
	key := act{e.RequestID, action, e.Target}
	intents := p.open[key]
	switch {
	case outcome == "":
		p.open[key] = append(intents, e)
	case len(intents) == 0:
		p.orphans = append(p.orphans, e)
	case len(intents) == 1:
		delete(p.open, key)
	default:
		p.open[key] = intents[:len(intents)-1]
	}
}

// unmatched is what is left, by number.
func (p *pairs) unmatched() []Event {
	all := p.orphans
	for _, intents := range p.open {
		all = append(all, intents...)
	}
	slices.SortFunc(all, func(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) })
	return all
}
