BEGIN TRANSACTION;
CREATE TABLE items (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	machine VARCHAR NOT NULL, 
	description JSON NOT NULL, 
	machine_key VARCHAR NOT NULL, 
	home VARCHAR NOT NULL, 
	away VARCHAR NOT NULL, 
	policy VARCHAR NOT NULL, 
	state VARCHAR(33) NOT NULL, 
	direction VARCHAR(7) NOT NULL, 
	active_site VARCHAR NOT NULL, 
	store_site VARCHAR NOT NULL, 
	timeline VARCHAR NOT NULL, 
	lineage JSON NOT NULL, 
	timelines JSON NOT NULL, 
	ties JSON NOT NULL, 
	fence INTEGER NOT NULL, 
	job VARCHAR, 
	replicate JSON, 
	replication JSON NOT NULL, 
	crossed JSON NOT NULL, 
	test JSON, 
	failover_point VARCHAR, 
	recovery_machine JSON, 
	created VARCHAR(40) NOT NULL, 
	removed VARCHAR(40), 
	PRIMARY KEY (id), 
	FOREIGN KEY(home) REFERENCES sites (name), 
	FOREIGN KEY(away) REFERENCES sites (name), 
	FOREIGN KEY(policy) REFERENCES policies (name)
);
INSERT INTO "items" VALUES('i1','web','u','{"name": "web"}','0000000000000000000000000000000000000000000000000000000000000000','east','west','gold','FAILOVER_IN_PROGRESS','FORWARD','east','west','t1','["t1"]','{"west": ["t1"]}','{"pending": {"fork": "t2"}}',7,'j2',NULL,'{}','{}',NULL,NULL,NULL,'2026-01-02T03:04:05+00:00',NULL);
CREATE TABLE jobs (
	id VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	item VARCHAR NOT NULL, 
	item_name VARCHAR NOT NULL, 
	params JSON NOT NULL, 
	"before" VARCHAR(33) NOT NULL, 
	direction VARCHAR(7) NOT NULL, 
	state VARCHAR NOT NULL, 
	cancel BOOLEAN NOT NULL, 
	version INTEGER NOT NULL, 
	created VARCHAR(40) NOT NULL, 
	started VARCHAR(40), 
	ended VARCHAR(40), 
	error JSON, 
	result JSON, 
	PRIMARY KEY (id), 
	FOREIGN KEY(item) REFERENCES items (id)
);
INSERT INTO "jobs" VALUES('j1','protect','i1','web','{}','UNPROTECTED','FORWARD','succeeded',0,1,'2026-01-02T03:04:05+00:00','2026-01-02T03:04:05+00:00','2026-01-02T03:04:08+00:00',NULL,NULL);
INSERT INTO "jobs" VALUES('j2','failover','i1','web','{"point": "latest", "shutdown": true}','PROTECTED','FORWARD','running',0,1,'2026-01-02T03:05:05+00:00','2026-01-02T03:05:05+00:00',NULL,NULL,NULL);
CREATE TABLE machines (
	site VARCHAR NOT NULL, 
	uuid VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	data JSON NOT NULL, 
	PRIMARY KEY (site, uuid, name), 
	FOREIGN KEY(site) REFERENCES sites (name)
);
INSERT INTO "machines" VALUES('east','u','web','{"name": "web"}');
CREATE TABLE points (
	timeline VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	data JSON NOT NULL, 
	PRIMARY KEY (timeline, number)
);
INSERT INTO "points" VALUES('t1',1,'{"id": "t1/1"}');
CREATE TABLE policies (
	name VARCHAR NOT NULL, 
	rpo_threshold INTEGER NOT NULL, 
	retention INTEGER NOT NULL, 
	app_consistent INTEGER NOT NULL, 
	interval INTEGER NOT NULL, 
	generated BOOLEAN NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "policies" VALUES('gold',900,86400,0,5,0);
INSERT INTO "policies" VALUES('gold-failback',900,86400,3600,5,1);
CREATE TABLE settings (
	name VARCHAR NOT NULL, 
	value JSON NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "settings" VALUES('schema_version','{"version": 1}');
CREATE TABLE sites (
	name VARCHAR NOT NULL, 
	provider VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	created VARCHAR(40) NOT NULL, 
	executor VARCHAR, 
	gateway JSON, 
	facts JSON NOT NULL, 
	last_seen VARCHAR(40), 
	inventoried VARCHAR(40), 
	PRIMARY KEY (name)
);
INSERT INTO "sites" VALUES('east','qemu','/east','2026-01-02T03:04:05+00:00',NULL,NULL,'{"a": 1}',NULL,NULL);
INSERT INTO "sites" VALUES('west','qemu','/west','2026-01-02T03:04:05+00:00',NULL,'{"url": "tcp://west", "token": "t"}','{}','2026-01-02T03:04:05.000005+00:00',NULL);
CREATE TABLE tasks (
	job VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	title VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	progress JSON, 
	started VARCHAR(40) NOT NULL, 
	ended VARCHAR(40), 
	result JSON, 
	error JSON, 
	PRIMARY KEY (job, name), 
	FOREIGN KEY(job) REFERENCES jobs (id)
);
INSERT INTO "tasks" VALUES('j2','stop',0,'Shut the machine down','running',NULL,'2026-01-02T03:05:05+00:00',NULL,NULL,NULL);
CREATE TABLE work (
	id VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	site VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	params JSON NOT NULL, 
	job VARCHAR, 
	task VARCHAR, 
	state VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	executor VARCHAR, 
	progress JSON, 
	result JSON, 
	error JSON, 
	created VARCHAR(40) NOT NULL, 
	changed VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE ("key"), 
	FOREIGN KEY(site) REFERENCES sites (name)
);
INSERT INTO "work" VALUES('w1','j2:stop:0','east','planned-stop','{"vm": "web"}','j2','stop','running',1,NULL,NULL,NULL,NULL,'2026-01-02T03:04:05+00:00','2026-01-02T03:04:05+00:00');
CREATE INDEX ix_work_site ON work (site);
CREATE INDEX ix_work_state ON work (state);
CREATE INDEX ix_jobs_item ON jobs (item);
CREATE INDEX ix_jobs_state ON jobs (state);
COMMIT;
