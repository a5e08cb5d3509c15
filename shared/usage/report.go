package usage

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"postern/shared/limit"
	"postern/shared/table"
)

// Row is the usage of one caller and one agent in one hour. A request that ran
// no agent is in the row whose Agent is ""; refusals stand there too.
type Row struct {
	Hour         time.Time `json:"hour"`
	Caller       string    `json:"caller"`
	Agent        string    `json:"agent"`
	Requests     int64     `json:"requests"`
	Refused      int64     `json:"refused"`
	InputTokens  int64     `json:"input_tokens"`
	OutputTokens int64     `json:"output_tokens"`
}

// rows turns an item of counters into its rows, that of no agent first.
func rows(item table.Item) ([]Row, error) {
	caller := strings.TrimPrefix(item.Partition, callerPartition)
	hour, err := time.Parse(hourFormat, item.Sort)
	if err != nil {
		return nil, err
	}
	of := func(agent string) Row { return Row{Hour: hour, Caller: caller, Agent: agent} }
	plain := of("")
	plain.Requests = item.Counters[requests] + item.Counters[admin]
	plain.Refused = item.Counters[refused]
	list := []Row{}
	for _, counter := range slices.Sorted(maps.Keys(item.Counters)) {
		agent, isRun := strings.CutPrefix(counter, runs)
		if !isRun {
			continue
		}
		row := of(agent)
		row.Requests = item.Counters[counter]
		row.InputTokens, row.OutputTokens = item.Counters[input+agent], item.Counters[output+agent]
		plain.Requests -= row.Requests
		list = append(list, row)
	}
	plain.Requests = max(plain.Requests, 0) // a request of txtai's may run an agent several times
	if plain.Requests > 0 || plain.Refused > 0 {
		list = append([]Row{plain}, list...)
	}
	return list, nil
}

// Query says which rows to report: those of the hours from From on, before To.
type Query struct {
	From, To time.Time
	Caller   string // "": everybody
	After    string // where the last page ended; "": from the beginning
	Limit    int    // of callers' hours, each of which has a row or more; at most table.MaxList
}

// Report returns a page of rows, by hour and caller, and where the next one goes
// on; "" if there is none.
func (l *Ledger) Report(ctx context.Context, q Query) (list []Row, next string, err error) {
	l.flush(ctx)
	keys, err := l.keysOf(ctx, q)
	if err != nil {
		return nil, "", err
	}
	items, err := l.get(ctx, keys)
	if err != nil {
		return nil, "", err
	}
	list = []Row{}
	for _, item := range items {
		some, err := rows(item)
		if err != nil {
			return nil, "", err
		}
		list = append(list, some...)
	}
	if len(keys) == q.Limit {
		next = place(keys[len(keys)-1])
	}
	return list, next, nil
}

// place is the entry of an item in the directory, and where a page ends.
func place(key table.Key) string {
	return key.Sort + separator + strings.TrimPrefix(key.Partition, callerPartition)
}

// keysOf returns which items are on a page: a caller's own hours, or those that
// the directory of each day names.
func (l *Ledger) keysOf(ctx context.Context, q Query) ([]table.Key, error) {
	from, end := q.From.UTC().Format(hourFormat), q.To.UTC().Format(hourFormat)
	var keys []table.Key
	if q.Caller != "" {
		after, _, _ := strings.Cut(q.After, separator)
		before := q.From.Add(-limit.Window).UTC().Format(hourFormat)
		items, err := l.table.List(ctx, callerPartition+q.Caller, table.Query{After: max(after, before), Limit: q.Limit})
		for _, i := range items {
			if i.Sort < end {
				keys = append(keys, i.Key)
			}
		}
		return keys, err
	}
	for day := q.From.UTC().Truncate(24 * time.Hour); day.Before(q.To) && len(keys) < q.Limit; day = day.Add(24 * time.Hour) {
		entries, err := l.table.List(ctx, dayPartition+day.Format(dayFormat), table.Query{After: max(q.After, from), Limit: q.Limit - len(keys)})
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			hour, caller, _ := strings.Cut(e.Sort, separator)
			if hour < end {
				keys = append(keys, table.Key{Partition: callerPartition + caller, Sort: hour})
			}
		}
	}
	return keys, nil
}

// get reads items in the order of keys, and leaves out what has expired.
func (l *Ledger) get(ctx context.Context, keys []table.Key) ([]table.Item, error) {
	items := make([]table.Item, len(keys))
	err := table.Each(len(keys), func(i int) (err error) {
		if items[i], err = l.table.Get(ctx, keys[i]); errors.Is(err, table.ErrNotFound) {
			return nil
		}
		return err
	})
	return slices.DeleteFunc(items, func(i table.Item) bool { return i.Sort == "" }), err
}
