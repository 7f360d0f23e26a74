package main

import "errors"

// seed puts results of all targets of the workspace in dir into the store below
// cache, as if everything had been built.
func seed(dir, cache string) error {
	return errors.New("seeding " + cache + " for " + dir + ": TO BE FILLED IN with the API of internal/store and internal/plan")
}
