package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"unicode/utf8"
)

// maxPiece bounds what is held of an export at once, in bytes: an event's
// longest member, and what was read ahead of it.
const maxPiece = 64 << 10

// Read reads an export: events, or pages as GET /audit answers them, one JSON
// object after another, with white space between them or without. It yields the
// events as they come, and an error, which ends it, for
//
//   - anything that isn't such JSON, in UTF-8: a member that is missing, stands
//     twice, isn't known or has another type, or more than 64 KiB of one;
//   - an end in the middle of an object;
//   - a last page whose "next" says that there are more.
//
// It doesn't look at what the events say; that is Verify's.
func Read(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		in := &bounded{r: r}
		d := &decoder{Decoder: json.NewDecoder(in)}
		in.consumed = d.InputOffset
		err := d.export(func(e Event) bool { return yield(e, nil) })
		if err != nil && err != errStopped {
			yield(Event{}, fmt.Errorf("reading the export near byte %d: %w", d.InputOffset(), err))
		}
	}
}

// errStopped is for who wants no more events.
var errStopped = errors.New("stopped")

// bounded is a reader that fails before more than maxPiece bytes are held.
type bounded struct {
	r        io.Reader
	read     int64
	consumed func() int64
}

func (b *bounded) Read(p []byte) (int, error) {
	room := maxPiece - (b.read - b.consumed())
	if room <= 0 {
		return 0, fmt.Errorf("more than %d bytes in one piece: this is no audit export", maxPiece)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), room)])
	b.read += int64(n)
	return n, err
}

// decoder reads events member by member: package json by itself takes names in
// any case, twice, and not at all.
type decoder struct{ *json.Decoder }

// export reads objects to the end of the input.
func (d *decoder) export(yield func(Event) bool) error {
	more := false // says the last page
	for {
		var e Event
		var next *string
		ofPage, ofEvent := 0, 0 // members
		err := d.object(func(name string) error {
			switch name {
			case "events":
				ofPage++
				return d.events(yield)
			case "next":
				ofPage++
				return d.value(name, &next)
			}
			ofEvent++
			return d.member(&e, name)
		})
		switch {
		case err == io.EOF && more:
			return errors.New(`the last page has a "next": append the pages from there on (?after=<next>), up to the one with "next": null`)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case ofPage == 2 && ofEvent == 0:
			more = next != nil
		case ofPage == 0 && ofEvent == eventMembers:
			more = false
			if !yield(e) {
				return errStopped
			}
		default:
			return errIncomplete
		}
	}
}

// events reads a page's array.
func (d *decoder) events(yield func(Event) bool) error {
	if err := d.delim('[', "an array of events"); err != nil {
		return within(err)
	}
	for d.More() {
		var e Event
		if err := d.event(&e); err != nil {
			return within(err)
		}
		if !yield(e) {
			return errStopped
		}
	}
	return within(d.delim(']', "events"))
}

// eventMembers is how many members an event has.
const eventMembers = 9

var errIncomplete = errors.New("an event or a page lacks some of its members")

// event reads one event.
func (d *decoder) event(e *Event) error {
	members := 0
	err := d.object(func(name string) error {
		members++
		return d.member(e, name)
	})
	if err == nil && members != eventMembers {
		return errIncomplete
	}
	return err
}

// member reads one member's value into e.
func (d *decoder) member(e *Event, name string) error {
	var into any
	switch name {
	case "seq":
		into = &e.Seq
	case "time":
		into = &e.Time
	case "actor":
		into = &e.Actor
	case "action":
		into = &e.Action
	case "target":
		into = &e.Target
	case "request_id":
		into = &e.RequestID
	case "ip":
		into = &e.IP
	case "hash":
		into = &e.Hash
	case "previous_hash":
		into = &e.PreviousHash
	default:
		return errors.New("an object has a member that is neither an event's nor a page's")
	}
	return d.value(name, into)
}

// value reads a member's value; null is for pointers alone.
func (d *decoder) value(name string, into any) error {
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return within(err)
	}
	_, nullable := into.(**string)
	if !utf8.Valid(raw) || string(raw) == "null" && !nullable || json.Unmarshal(raw, into) != nil {
		return fmt.Errorf("the value of %q is not what an audit export has there", name)
	}
	return nil
}

// object reads an object; member reads the value of each of its members. At the
// end of the input it is io.EOF.
func (d *decoder) object(member func(name string) error) error {
	if err := d.delim('{', "an object"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return within(err)
		}
		name := token.(string)
		if seen[name] {
			return errors.New("a member stands twice in one object")
		}
		seen[name] = true
		if err := member(name); err != nil {
			return err
		}
	}
	return within(d.delim('}', "members"))
}

func (d *decoder) delim(want json.Delim, what string) error {
	token, err := d.Token()
	if err == nil && token != want {
		err = fmt.Errorf("no %s where an audit export has %s", want, what)
	}
	return err
}

// within is err where the input may not end.
func within(err error) error {
	if err == io.EOF {
		return errors.New("the export ends in the middle of an object: it was cut short")
	}
	return err
}
