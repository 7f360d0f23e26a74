package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// monitor speaks the QEMU Machine Protocol. Its calls are made one at a time.
type monitor struct {
	w io.Writer
	d *json.Decoder
}

// newMonitor reads the greeting and leaves negotiation mode.
func newMonitor(rw io.ReadWriter) (*monitor, error) {
	m := &monitor{w: rw, d: json.NewDecoder(rw)}
	var greeting struct{ QMP json.RawMessage }
	if err := m.d.Decode(&greeting); err != nil {
		return nil, fmt.Errorf("QMP greeting: %w", err)
	}
	return m, m.execute("qmp_capabilities", nil)
}

func (m *monitor) execute(command string, arguments any) error {
	return m.call(command, arguments, nil)
}

// pollEvery is how often QEMU is asked what it has not told by itself.
const pollEvery = 50 * time.Millisecond

// poll runs a query until what it says of the status is enough.
func (m *monitor) poll(ctx context.Context, query string, enough func(status string) (bool, error)) error {
	for {
		var reply struct{ Status string }
		if err := m.call(query, nil, &reply); err != nil {
			return err
		}
		if done, err := enough(reply.Status); done || err != nil {
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *monitor) call(command string, arguments, result any) error {
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	if _, err := m.w.Write(append(request, '\n')); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	for {
		var reply struct {
			Event  string
			Return json.RawMessage
			Error  *struct{ Class, Desc string }
		}
		if err := m.d.Decode(&reply); err != nil {
			return fmt.Errorf("QMP %s: %w", command, err)
		}
		switch {
		case reply.Error != nil:
			return fmt.Errorf("QMP %s: %s: %s", command, reply.Error.Class, reply.Error.Desc)
		case reply.Return != nil && result != nil:
			return json.Unmarshal(reply.Return, result)
		case reply.Return != nil:
			return nil
		} // else an event
	}
}
