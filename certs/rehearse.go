package certs

import "log/slog"

// Try is asked about each candidate before it serves. The candidate answers like
// a store, with what it would have in service. An error refuses it; alarms are
// what does not work but is no reason for that.
type Try func(candidate *Store) (alarms []string, err error)

// Rehearse tries what is in service, if there is anything yet, and from then on
// each candidate. It is called between Load and Run.
func (s *Store) Rehearse(try Try) error {
	s.init()
	s.try = try
	m := s.current.Load()
	if m == nil {
		return nil
	}
	tried, err := s.tried(m)
	if err != nil {
		return err
	}
	s.current.Store(tried)
	s.remind(tried.remarks(s.Now()))
	return nil
}

// tried is the material with the alarms of its trial.
func (s *Store) tried(m *Material) (*Material, error) {
	if s.try == nil {
		return m, nil
	}
	candidate := &Store{Source: s.Source, Log: slog.New(slog.DiscardHandler), Now: s.Now, RefuseExpired: s.RefuseExpired, CANames: s.CANames}
	candidate.init()
	candidate.current.Store(m)
	alarms, err := s.try(candidate)
	if err != nil {
		return nil, err
	}
	return m.withAlarms(alarms), nil
}
