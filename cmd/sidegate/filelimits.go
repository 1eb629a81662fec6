package main

import (
	"fmt"
	"slices"

	"sidegate/certs/files"
)

// fileLimits is how much may be read of each kind of file.
type fileLimits struct {
	crls, cas, users, policy files.Limit
}

// What a byte of a file costs in memory, in the form that costs most: what is
// kept of the last good one, and the most that is needed while the next one is
// read. BenchmarkFileCost measures both, on files of 400 KiB with the shortest
// entries: CRLs 1.3 + 1.9, CAs 6.8 + 10.3, users 6.5 + 7.8, policy 32 + 71 to
// 132, most of it the tree of its YAML.
const (
	crlCost    = 4
	caCost     = 18
	userCost   = 16
	policyCost = 165
)

// Shares of the memory that each kind may take. What is kept is less than half
// of it; the rest is needed only while a changed file is read.
const (
	eighth  = 8
	quarter = 4
)

// limitFiles derives the limits from the container's memory limit and the number
// of places with CAs. 0: it is not known, and only the absolute limits hold.
func limitFiles(memory int64, places int) fileLimits {
	if memory <= 0 {
		return fileLimits{}
	}
	of := fmt.Sprintf("the container's memory limit of %s: raise resources.limits.memory", files.Size(memory))
	limit := func(share, cost int64) files.Limit { return files.Limit{Bytes: max(1, memory/share/cost), Of: of} }
	each := int64(max(1, places))
	return fileLimits{
		crls:   limit(eighth*each, crlCost),
		cas:    limit(eighth*each, caCost),
		users:  limit(eighth, userCost),
		policy: limit(quarter, policyCost),
	}
}

// String tells the limits for check; "" where only the absolute ones hold.
func (l fileLimits) String() string {
	if l.crls.Of == "" {
		return ""
	}
	return fmt.Sprintf("files: %s of CRLs, %s of CAs, %s of users, %s of policy at most (%s)",
		files.Size(l.crls.Bytes), files.Size(l.cas.Bytes), files.Size(l.users.Bytes), files.Size(l.policy.Bytes), l.crls.Of)
}

// placesOfCAs counts the different places that CAs of clients are read from.
func placesOfCAs(specs []*gateSpec) int {
	var places []string
	for _, s := range specs {
		place := s.clientCAFile()
		if place == "" && len(s.tls) > 0 {
			place = s.tls[0]
		}
		if s.asksClientCert() && place != "" && !slices.Contains(places, place) {
			places = append(places, place)
		}
	}
	return len(places)
}
