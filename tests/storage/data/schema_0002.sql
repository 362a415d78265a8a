BEGIN TRANSACTION;
CREATE TABLE artifacts (
	digest TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	data BLOB NOT NULL, 
	created DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (digest)
);
INSERT INTO "artifacts" VALUES('14f3cba70f4dd8e17f76f6897ac4a8993aab0ce265ea401f8d4ea440272db9c6',5,X'736169640A','2026-11-24 22:50:20.156000');
INSERT INTO "artifacts" VALUES('b79bc395083ddd75a2cf5dad2e81b5dc8353171aafaa2a4f8e2bfd881b663e7b',13,X'1F8B206E6F74207265616C6C79','2026-11-24 22:50:20.157000');
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
INSERT INTO "attempt_artifacts" VALUES(1,1,'trace.json.gz','application/gzip','b79bc395083ddd75a2cf5dad2e81b5dc8353171aafaa2a4f8e2bfd881b663e7b');
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
INSERT INTO "attempts" VALUES(1,1,'e0a6a6cdccbcac81d5f63ede67a02e5b','w1','succeeded',NULL,NULL,'2026-11-24 22:50:20.138000','2026-11-24 22:50:20.155000','8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568');
INSERT INTO "attempts" VALUES(2,1,'29d7ab9232c6f10f7642812485aee2a9','w1','succeeded',NULL,NULL,'2026-11-24 22:50:20.175000','2026-11-24 22:50:20.185000',NULL);
INSERT INTO "attempts" VALUES(3,1,'e596be48bfa13b611c3748840c069577','w1','lost','lost','Its lease ran out: the worker died, or was cut off from the database.','2026-11-24 22:50:20.195000','2026-11-24 22:50:20.204000',NULL);
INSERT INTO "attempts" VALUES(3,2,'50a1a85df0e44305b8f222c3c2bf7f1b','w1','failed','oom_host','Too much.','2026-11-24 22:50:20.215000','2026-11-24 22:50:20.222000','8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568');
INSERT INTO "attempts" VALUES(4,1,'c7890eaf729289515d4a040f765ef437','w2','running',NULL,NULL,'2026-11-24 22:50:20.223000',NULL,NULL);
CREATE TABLE dnnamo_schema_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT dnnamo_schema_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "dnnamo_schema_version" VALUES('0002');
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
INSERT INTO "environments" VALUES('8fc43c9178ac5ba2ae725b64c1348e0fc78237bf47f20b9957f99e562ff37568','node7','Linux 6.1','EPYC',64,1099511627776,'H200','570','3.11.7','{"torch":"2.13.0","numpy":"2.4.6"}','{"hostname":"node7","os":"Linux 6.1","cpu":"EPYC","cores":64,"affinity":[0,1],"governor":null,"memory_bytes":1099511627776,"python":"3.11.7","libraries":{"torch":"2.13.0","numpy":"2.4.6"},"threads":{"OMP_NUM_THREADS":2},"gpus":[{"name":"H200","uuid":"GPU-1","memory_bytes":137438953472}],"driver":"570"}','2026-11-24 22:50:20.166000');
CREATE TABLE hint_keys (
	id INTEGER NOT NULL, 
	"key" BLOB NOT NULL, 
	CONSTRAINT pk_hint_keys PRIMARY KEY (id), 
	CONSTRAINT ck_hint_keys_one_row CHECK (id = 1)
);
INSERT INTO "hint_keys" VALUES(1,X'00533AD6EC54C676C1D0BDB7BF2B3474724C9A891966385C066425119DE7586F');
CREATE TABLE job_tags (
	tag TEXT NOT NULL, 
	job_id INTEGER NOT NULL, 
	CONSTRAINT pk_job_tags PRIMARY KEY (tag, job_id), 
	CONSTRAINT fk_job_tags_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "job_tags" VALUES('nightly',2);
INSERT INTO "job_tags" VALUES('nightly',1);
INSERT INTO "job_tags" VALUES('näve',1);
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
	ended DATETIME, progress JSON, 
	CONSTRAINT ck_jobs_lease CHECK ((state = 'running') = (lease_until IS NOT NULL)), 
	CONSTRAINT ck_jobs_token CHECK ((state = 'running') = (token IS NOT NULL)), 
	CONSTRAINT ck_jobs_ended CHECK ((state IN ('queued', 'running')) = (ended IS NULL)), 
	CONSTRAINT ck_jobs_state CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')), 
	CONSTRAINT uq_jobs_key UNIQUE ("key")
);
INSERT INTO "jobs" VALUES(1,'first','succeeded',NULL,NULL,'/models/naïve 🦊.py','profile_training','cpu',5,10,'{"width":1099511627776,"layers":[1,2]}','{"model":"/models/naïve 🦊.py","method":"profile_training","params":{"width":1099511627776,"layers":[1,2]},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":5,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":["nightly","näve"]}',0,1,NULL,NULL,'2026-11-24 22:50:20.120000','2026-11-24 22:50:20.136000','2026-11-24 22:50:20.149000',NULL);
INSERT INTO "jobs" VALUES(2,NULL,'succeeded',NULL,NULL,'demo:mlp','profile_inference','gpu',0,10,'{}','{"model":"demo:mlp","method":"profile_inference","params":{},"n_steps":10,"warmup":null,"device":"gpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":["nightly"]}',0,1,NULL,NULL,'2026-11-24 22:50:20.120000','2026-11-24 22:50:20.175000','2026-11-24 22:50:20.184000',NULL);
INSERT INTO "jobs" VALUES(3,NULL,'queued',NULL,NULL,'demo:mlp','run_inference','cpu',0,10,'{}','{"model":"demo:mlp","method":"run_inference","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[]}',0,2,NULL,NULL,'2026-11-24 22:50:20.120000','2026-11-24 22:50:20.195000',NULL,NULL);
INSERT INTO "jobs" VALUES(4,NULL,'running',NULL,NULL,'demo:cnn','run_training','cpu',0,10,'{}','{"model":"demo:cnn","method":"run_training","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[]}',0,1,'c7890eaf729289515d4a040f765ef437','2026-11-24 22:50:50.235000','2026-11-24 22:50:20.120000','2026-11-24 22:50:20.223000',NULL,'{"warmup":2,"done":3,"loss":0.5}');
INSERT INTO "jobs" VALUES(5,NULL,'cancelled','cancelled','Cancelled before it started.','demo:mlp','get_weights','cpu',0,10,'{}','{"model":"demo:mlp","method":"get_weights","params":{},"n_steps":10,"warmup":null,"device":"cpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[]}',1,0,NULL,NULL,'2026-11-24 22:50:20.120000',NULL,'2026-11-24 22:50:20.239000',NULL);
INSERT INTO "jobs" VALUES(6,NULL,'queued',NULL,NULL,'demo:mlp','run_inference','gpu',0,10,'{}','{"model":"demo:mlp","method":"run_inference","params":{},"n_steps":10,"warmup":null,"device":"gpu","threads":null,"priority":0,"timeout_s":null,"memory_bytes":null,"output_bytes":null,"scratch_bytes":null,"weights":null,"python":null,"repeats":0,"tags":[]}',0,0,NULL,NULL,'2026-11-24 22:50:20.120000',NULL,NULL,NULL);
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
INSERT INTO "operations" VALUES(2,0,'Conv2D','[[8,3],[]]',2,40,60,30);
INSERT INTO "operations" VALUES(2,1,'MatMul',NULL,3,35,35,5);
INSERT INTO "operations" VALUES(2,2,'MatMul','[[2,3]]',1,25,26,6);
INSERT INTO "operations" VALUES(2,3,'Kernel_ääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääää',NULL,1,0,0,9);
INSERT INTO "operations" VALUES(2,4,'NoOp',NULL,1,0,0,0);
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
INSERT INTO "profiles" VALUES(2,1,'xspace','[]',70,NULL);
CREATE TABLE results (
	job_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	n_steps BIGINT, 
	median_ns DOUBLE, 
	min_ns BIGINT, 
	max_ns BIGINT, 
	warmup_steps BIGINT, 
	final_loss DOUBLE, 
	record JSON NOT NULL, verdict TEXT, 
	CONSTRAINT pk_results PRIMARY KEY (job_id), 
	CONSTRAINT fk_results_job_id_attempt FOREIGN KEY(job_id, attempt) REFERENCES attempts (job_id, number) ON DELETE CASCADE
);
INSERT INTO "results" VALUES(1,1,4,3500.0,2000,9223372036854775807,2,0.25,'{"steps":{"count":4,"duration_ns":[4000,2000,3000,9223372036854775807],"warmup":{"count":2,"duration_ns":[9,8]}},"loss":[1.5,null,1e+300,0.25],"score":[0.5],"predictions":{"kept":1,"total":4,"total_bytes":4096},"evidence":{"wall_ns":100,"cores":[0,1],"own_cpu_ns":90,"foreign_cpu_ns":12,"delayed_ns":0,"steal_ns":0,"throttles":null,"foreign_gpu_pids":[],"gpu_throttles":[],"reasons":["Others took 12 % of core 1."],"repeated":0}}','tainted');
INSERT INTO "results" VALUES(2,1,NULL,NULL,NULL,NULL,NULL,NULL,'{"steps":null,"loss":[],"score":[],"predictions":null,"evidence":null}',NULL);
CREATE TABLE "workers" (
	name TEXT NOT NULL, 
	queues JSON NOT NULL, 
	slots INTEGER NOT NULL, 
	started DATETIME NOT NULL, 
	seen DATETIME NOT NULL, 
	polled DATETIME NOT NULL, 
	devices JSON NOT NULL, 
	busy JSON NOT NULL, 
	set_aside JSON NOT NULL, 
	jobs JSON NOT NULL, 
	CONSTRAINT pk_workers PRIMARY KEY (name)
);
INSERT INTO "workers" VALUES('node7:42','["cpu","gpu"]',2,'2026-11-24 22:50:20.252000','2026-11-24 22:50:20.252000','2026-11-24 22:50:18.752000','["cores 0-3","GPU-1 with cores 4-7"]','["core 1 is used by other:7"]','["GPU-2: 3 GiB were left behind"]','[4]');
CREATE INDEX ix_jobs_claim ON jobs (device, state, priority DESC, id);
CREATE INDEX ix_jobs_state ON jobs (state, id);
CREATE INDEX ix_attempts_environment ON attempts (environment);
CREATE INDEX ix_operations_name ON operations (name);
CREATE INDEX ix_attempt_artifacts_digest ON attempt_artifacts (digest);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',6);
COMMIT;
