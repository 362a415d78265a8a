BEGIN TRANSACTION;
CREATE TABLE artifacts (
	digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	data BLOB NOT NULL, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (digest)
);
INSERT INTO "artifacts" VALUES('14f3cba70f4dd8e17f76f6897ac4a8993aab0ce265ea401f8d4ea440272db9c6',5,X'736169640A','2026-11-24 19:37:05.692000');
CREATE TABLE attempt_artifacts (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	media_type TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	CONSTRAINT pk_attempt_artifacts PRIMARY KEY (job_id, attempt, name), 
	CONSTRAINT fk_attempt_artifacts_digest FOREIGN KEY(digest) REFERENCES artifacts (digest), 
	CONSTRAINT fk_attempt_artifacts_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "attempt_artifacts" VALUES(1,1,'log.txt','text/plain','14f3cba70f4dd8e17f76f6897ac4a8993aab0ce265ea401f8d4ea440272db9c6');
CREATE TABLE attempts (
	job_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	token TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	state TEXT NOT NULL, 
	cause TEXT, 
	message TEXT, 
	started DATETIME NOT NULL, 
	ended DATETIME, 
	environment TEXT, 
	CONSTRAINT pk_attempts PRIMARY KEY (job_id, number), 
	CONSTRAINT ck_attempts_ended CHECK ((state = 'running') = (ended IS NULL)), 
	CONSTRAINT ck_attempts_state CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled', 'lost', 'handed_back')), 
	CONSTRAINT fk_attempts_environment FOREIGN KEY(environment) REFERENCES environments (digest), 
	CONSTRAINT fk_attempts_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "attempts" VALUES(1,1,'0afd9d6d77235806297619d3297a1ffb','w1','succeeded',NULL,NULL,'2026-11-24 19:37:05.678000','2026-11-24 19:37:05.686000','8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568');
INSERT INTO "attempts" VALUES(2,1,'626efdf4e1c817b106f4b07da99c84a1','w1','lost','lost','Its lease ran out: the worker died, or was cut off from the database.','2026-11-24 19:37:05.700000','2026-11-24 19:37:05.705000',NULL);
INSERT INTO "attempts" VALUES(2,2,'8ef4c0b454a49c8b4957b0600e5d7b3d','w1','failed','signal','SIGSEGV','2026-11-24 19:37:05.710000','2026-11-24 19:37:05.713000','8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568');
INSERT INTO "attempts" VALUES(4,1,'7198c6bbe0c34409d455f074975c0560','w1','running',NULL,NULL,'2026-11-24 19:37:05.720000',NULL,NULL);
CREATE TABLE dnnamo_schema_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT dnnamo_schema_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "dnnamo_schema_version" VALUES('0001');
CREATE TABLE environments (
	digest TEXT NOT NULL, 
	hostname TEXT NOT NULL, 
	os TEXT NOT NULL, 
	cpu TEXT NOT NULL, 
	cores INTEGER NOT NULL, 
	memory_bytes BIGINT NOT NULL, 
	gpu TEXT, 
	driver TEXT, 
	python TEXT NOT NULL, 
	libraries JSON NOT NULL, 
	record JSON NOT NULL, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_environments PRIMARY KEY (digest)
);
INSERT INTO "environments" VALUES('8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568','node7','Linux 6.1','EPYC',64,1099511627776,'H200','570','3.11.7','{"torch":"2.13.0","numpy":"2.4.6"}','{"hostname":"node7","os":"Linux 6.1","cpu":"EPYC","cores":64,"affinity":[0,1],"governor":null,"memory_bytes":1099511627776,"python":"3.11.7","libraries":{"torch":"2.13.0","numpy":"2.4.6"},"threads":{"OMP_NUM_THREADS":2},"gpus":[{"name":"H200","uuid":"GPU-1","memory_bytes":137438953472}],"driver":"570"}','2026-11-24 19:37:05.684000');
CREATE TABLE jobs (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	"key" TEXT, 
	state TEXT NOT NULL, 
	cause TEXT, 
	message TEXT, 
	model TEXT NOT NULL, 
	method TEXT NOT NULL, 
	device TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	n_steps BIGINT NOT NULL, 
	params JSON NOT NULL, 
	spec JSON NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	token TEXT, 
	lease_until DATETIME, 
	created DATETIME NOT NULL, 
	started DATETIME, 
	ended DATETIME, 
	CONSTRAINT ck_jobs_lease CHECK ((state = 'running') = (lease_until IS NOT NULL)), 
	CONSTRAINT ck_jobs_token CHECK ((state = 'running') = (token IS NOT NULL)), 
	CONSTRAINT ck_jobs_ended CHECK ((state IN ('queued', 'running')) = (ended IS NULL)), 
	CONSTRAINT ck_jobs_state CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')), 
	CONSTRAINT uq_jobs_key UNIQUE ("key")
);
INSERT INTO "jobs" VALUES(1,'first','succeeded',NULL,NULL,'/models/naïve 🦊.py','profile_training','cpu',5,10,'{"width":1099511627776,"layers":[1,2]}','{"model":"/models/naïve 🦊.py","method":"profile_training","params":{"width":1099511627776,"layers":[1,2]},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":5,"timeout_s":null,"weights":null}',0,1,NULL,NULL,'2026-11-24 19:37:05.670000','2026-11-24 19:37:05.677000','2026-11-24 19:37:05.682000');
INSERT INTO "jobs" VALUES(2,NULL,'failed','signal','SIGSEGV','demo:mlp','run_inference','cpu',0,10,'{}','{"model":"demo:mlp","method":"run_inference","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"weights":null}',0,2,NULL,NULL,'2026-11-24 19:37:05.696000','2026-11-24 19:37:05.699000','2026-11-24 19:37:05.712000');
INSERT INTO "jobs" VALUES(3,NULL,'queued',NULL,NULL,'demo:mlp','run_inference','gpu',0,10,'{}','{"model":"demo:mlp","method":"run_inference","params":{},"n_steps":10,"warmup":null,"device":"gpu","threads":null,"priority":0,"timeout_s":null,"weights":null}',0,0,NULL,NULL,'2026-11-24 19:37:05.716000',NULL,NULL);
INSERT INTO "jobs" VALUES(4,NULL,'running',NULL,NULL,'demo:cnn','run_training','cpu',0,10,'{}','{"model":"demo:cnn","method":"run_training","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"weights":null}',0,1,'7198c6bbe0c34409d455f074975c0560','2026-11-24 19:37:35.720000','2026-11-24 19:37:05.717000','2026-11-24 19:37:05.720000',NULL);
INSERT INTO "jobs" VALUES(5,NULL,'cancelled','cancelled','Cancelled before it started.','demo:mlp','get_weights','cpu',0,10,'{}','{"model":"demo:mlp","method":"get_weights","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"weights":null}',1,0,NULL,NULL,'2026-11-24 19:37:05.723000',NULL,'2026-11-24 19:37:05.727000');
CREATE TABLE operations (
	job_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	shapes JSON, 
	calls BIGINT NOT NULL, 
	self_ns BIGINT NOT NULL, 
	total_ns BIGINT NOT NULL, 
	device_ns BIGINT NOT NULL, 
	CONSTRAINT pk_operations PRIMARY KEY (job_id, position), 
	CONSTRAINT fk_operations_job_id FOREIGN KEY(job_id) REFERENCES profiles (job_id) ON DELETE CASCADE
);
INSERT INTO "operations" VALUES(1,0,'aten::mm','[[2,3],[],null]',3,9223372036854775807,9223372036854775807,9223372036854775807);
INSERT INTO "operations" VALUES(1,1,'aten::add',NULL,1,5,7,0);
INSERT INTO "operations" VALUES(1,2,'aten::mm','[[1,1]]',1,1,1,0);
CREATE TABLE profiles (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	source TEXT NOT NULL, 
	step_ns JSON NOT NULL, 
	covered_ns BIGINT NOT NULL, 
	coverage DOUBLE, 
	CONSTRAINT pk_profiles PRIMARY KEY (job_id), 
	CONSTRAINT fk_profiles_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "profiles" VALUES(1,1,'kineto','[10,30]',20,0.5);
CREATE TABLE results (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	n_steps BIGINT, 
	median_ns DOUBLE, 
	min_ns BIGINT, 
	max_ns BIGINT, 
	warmup_steps BIGINT, 
	final_loss DOUBLE, 
	record JSON NOT NULL, 
	CONSTRAINT pk_results PRIMARY KEY (job_id), 
	CONSTRAINT fk_results_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "results" VALUES(1,1,4,3500.0,2000,9223372036854775807,2,0.25,'{"steps":{"count":4,"duration_ns":[4000,2000,3000,9223372036854775807],"warmup":{"count":2,"duration_ns":[9,8]}},"loss":[1.5,null,1e+300,0.25],"score":[0.5],"predictions":{"kept":1,"total":4,"total_bytes":4096}}');
CREATE TABLE workers (
	name TEXT NOT NULL, 
	queues JSON NOT NULL, 
	slots INTEGER NOT NULL, 
	started DATETIME NOT NULL, 
	seen DATETIME NOT NULL, 
	CONSTRAINT pk_workers PRIMARY KEY (name)
);
INSERT INTO "workers" VALUES('node7:42','["cpu","gpu"]',2,'2026-11-24 19:37:05.732000','2026-11-24 19:37:05.732000');
CREATE INDEX ix_jobs_claim ON jobs (device, state, priority DESC, id);
CREATE INDEX ix_jobs_model ON jobs (model);
CREATE INDEX ix_jobs_state ON jobs (state, id);
CREATE INDEX ix_attempts_environment ON attempts (environment);
CREATE INDEX ix_operations_name ON operations (name);
CREATE INDEX ix_attempt_artifacts_digest ON attempt_artifacts (digest);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',5);
COMMIT;
