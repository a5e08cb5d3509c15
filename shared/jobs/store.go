package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/table"
)

// A job is some items of a partition of its own, and a line in its owner's list:
//
//	job#<id>        job               the record
//	                request           what Worker.Run is given
//	                result-<holder>   of the run that the record names
//	jobs#<owner>    <created>-<id>    the id
const (
	recordSort  = "job"
	requestSort = "request"
	resultSort  = "result-"
)

func itemKey(id, sort string) table.Key { return table.Key{Partition: "job#" + id, Sort: sort} }
func (r *record) listKey() table.Key {
	return table.Key{Partition: listPartition(r.Owner), Sort: r.place()}
}
func (r *record) resultKey() table.Key  { return itemKey(r.ID, resultSort+r.Holder) }
func listPartition(owner string) string { return "jobs#" + owner }
func (s *Store) large() table.Large     { return table.Large{Table: s.Table} }

// Queue hands the ids of jobs to workers, each of them once at least. It knows the
// owners, so that nobody waits for all that another has asked for.
type Queue interface {
	Send(ctx context.Context, id, owner string) error
}

// Store is the jobs in a table. Any number of Stores may share one.
type Store struct {
	Table table.Table
	Queue Queue            // needed by Submit alone
	Now   func() time.Time // nil: time.Now
}

// patience bounds a change of a job, which is made even for a caller who has left.
const patience = 5 * time.Second

// Submit keeps an order and has it run. It refuses anonymous callers; its errors
// are for the api's error table. After an error nothing is kept, as far as that
// can be done, so that nothing runs even if the queue has the job.
func (s *Store) Submit(ctx context.Context, caller auth.Caller, o Order) (Job, error) {
	if caller.Kind == auth.Anonymous {
		return Job{}, errAnonymous
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	r, err := newRecord(s.now(), caller, o)
	if err != nil {
		return Job{}, err
	}
	if err := s.keep(ctx, r, o.Request); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // the first may be used up
		defer cancel()
		s.remove(ctx, r)
		return Job{}, api.Because(api.Unavailable, fmt.Errorf("keeping a job: %w", err))
	}
	return r.Job, nil
}

// keep writes what a new job is made of, and then has it run: a job of the queue
// is always whole.
func (s *Store) keep(ctx context.Context, r *record, request []byte) error {
	if _, err := s.large().Put(ctx, itemKey(r.ID, requestSort), request, 0, r.expires()); err != nil {
		return err
	}
	if err := s.put(ctx, r); err != nil {
		return err
	}
	if _, err := s.Table.Put(ctx, r.listKey(), []byte(r.ID), 0, r.expires()); err != nil {
		return err
	}
	return s.Queue.Send(ctx, r.ID, r.Owner)
}

// get returns a job of caller's, or errNoJob.
func (s *Store) get(ctx context.Context, caller auth.Caller, id string) (*record, error) {
	if !ValidID(id) || caller.Kind == auth.Anonymous {
		return nil, errNoJob
	}
	r, err := s.read(ctx, id)
	switch {
	case errors.Is(err, table.ErrNotFound):
		return nil, errNoJob
	case err != nil:
		return nil, api.Because(api.Unavailable, err)
	case r.Owner != caller.ID:
		return nil, errNoJob
	}
	return r, nil
}

// Get returns a job of caller's with its result. Its errors, and those below, are
// for the api's error table.
func (s *Store) Get(ctx context.Context, caller auth.Caller, id string) (Job, error) {
	r, err := s.get(ctx, caller, id)
	if err != nil {
		return Job{}, err
	}
	return s.withResult(ctx, r)
}

// withResult is the job with its result, if it has one.
func (s *Store) withResult(ctx context.Context, r *record) (Job, error) {
	if r.Status != Succeeded {
		return r.Job, nil
	}
	item, err := s.large().Get(ctx, r.resultKey())
	if errors.Is(err, table.ErrNotFound) {
		return Job{}, errNoJob // it has been deleted, or has expired, since
	}
	if err != nil {
		return Job{}, api.Because(api.Unavailable, err)
	}
	r.Job.Result = item.Value
	return r.Job, nil
}

// List returns up to limit of caller's jobs, the newest first, without their
// results, and where to go on ("" after the last). after is such a place, "" for
// the beginning.
func (s *Store) List(ctx context.Context, caller auth.Caller, after string, limit int) (list []Job, next string, err error) {
	list = []Job{}
	if caller.Kind == auth.Anonymous {
		return list, "", nil
	}
	places, err := s.Table.List(ctx, listPartition(caller.ID), table.Query{After: after, Reversed: true, Limit: limit + 1})
	if err != nil {
		return nil, "", api.Because(api.Unavailable, err)
	}
	if len(places) > limit {
		places = places[:limit]
		next = places[limit-1].Sort
	}
	records := make([]*record, len(places))
	err = table.Each(len(places), func(i int) error {
		r, err := s.read(ctx, string(places[i].Value))
		if errors.Is(err, table.ErrNotFound) {
			return nil // it has been deleted since
		}
		records[i] = r
		return err
	})
	if err != nil {
		return nil, "", api.Because(api.Unavailable, err)
	}
	for _, r := range records {
		if r != nil && r.Owner == caller.ID {
			list = append(list, r.Job)
		}
	}
	return list, next, nil
}

// Cancel ends a job of caller's that hasn't ended. One that was cancelled before
// stays so; one that ended otherwise is a conflict.
func (s *Store) Cancel(ctx context.Context, caller auth.Caller, id string) (Job, error) {
	var ended *record
	err := table.Persist(ctx, patience, func(ctx context.Context) error {
		r, err := s.get(ctx, caller, id)
		if err != nil {
			return err
		}
		ended = r
		switch {
		case r.Status == Cancelled:
			return nil
		case r.Status.Ended():
			return api.Fail(api.Conflict, "The job has %s already, so there is nothing to cancel.", r.Status)
		}
		r.end(s.now(), Cancelled)
		return s.put(ctx, r)
	})
	if err != nil {
		return Job{}, public(err)
	}
	s.removeRequest(ctx, id)
	return ended.Job, nil
}

// Delete removes a job of caller's and all that belongs to it. One that runs is
// ended by that, unless that is refused: endedOnly. After an error that is none of
// the caller's, the same again goes on with it.
func (s *Store) Delete(ctx context.Context, caller auth.Caller, id string, endedOnly bool) error {
	return public(table.Persist(ctx, patience, func(ctx context.Context) error {
		r, err := s.get(ctx, caller, id)
		switch {
		case err != nil:
			return err
		case endedOnly && !r.Status.Ended():
			return api.Fail(api.Conflict, "The job is %s: cancel it first (POST /jobs/{id}/cancel), or wait for its end.", r.Status)
		}
		return s.remove(ctx, r)
	}))
}

// remove removes what belongs to a job, the record last: as long as it is there,
// somebody can ask for the rest to go.
func (s *Store) remove(ctx context.Context, r *record) error {
	for _, remove := range []func() error{
		func() error { return s.removeResult(ctx, r) },
		func() error { return s.removeRequest(ctx, r.ID) },
		func() error { return s.Table.Delete(ctx, r.listKey(), 1) },
	} {
		if err := orNil(remove(), table.ErrConflict); err != nil { // it isn't there
			return err
		}
	}
	return s.Table.Delete(ctx, itemKey(r.ID, recordSort), max(r.version, 1)) // 0: nobody said that it was written
}

// removeRequest removes what a job is about. Nobody needs it when the job has ended.
func (s *Store) removeRequest(ctx context.Context, id string) error {
	return s.large().Delete(ctx, itemKey(id, requestSort), 1)
}

// removeResult removes what the record's run, if there was one, has kept.
func (s *Store) removeResult(ctx context.Context, r *record) error {
	if r.Holder == "" {
		return nil
	}
	return s.large().Delete(ctx, r.resultKey(), 1)
}

// read returns a job's record, or table.ErrNotFound.
func (s *Store) read(ctx context.Context, id string) (*record, error) {
	item, err := s.Table.Get(ctx, itemKey(id, recordSort))
	if err != nil {
		return nil, err
	}
	r := &record{version: item.Version}
	if err := json.Unmarshal(item.Value, r); err != nil {
		return nil, fmt.Errorf("the record of job %s is damaged: %w", id, err)
	}
	r.Result = nil // which is an item of its own
	return r, nil
}

// put writes a record over the version that was read.
func (s *Store) put(ctx context.Context, r *record) error {
	value, err := api.Encode(r)
	if err != nil {
		return err
	}
	version, err := s.Table.Put(ctx, itemKey(r.ID, recordSort), value, r.version, r.expires())
	if err == nil {
		r.version = version
	}
	return err
}

// public is err for the api's error table.
func public(err error) error {
	if _, ok := errors.AsType[*api.Error](err); ok || err == nil {
		return err
	}
	return api.Because(api.Unavailable, err)
}

// now is the time as jobs have it.
func (s *Store) now() time.Time {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	return now().UTC().Truncate(time.Millisecond)
}
