PRAGMA application_id = 1413964660;
PRAGMA user_version = 18;
BEGIN TRANSACTION;
CREATE TABLE alert_events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            time_ns INTEGER NOT NULL,
            event TEXT NOT NULL,
            value REAL,
            detail TEXT NOT NULL DEFAULT ''
        );
INSERT INTO "alert_events" VALUES(1,1,1700000000000000000,'pending',95.0,'');
INSERT INTO "alert_events" VALUES(2,2,1700000000000000000,'pending',95.0,'');
INSERT INTO "alert_events" VALUES(3,3,1700000000000000000,'pending',95.0,'');
INSERT INTO "alert_events" VALUES(4,4,1700000000000000000,'pending',95.0,'');
INSERT INTO "alert_events" VALUES(5,5,1700000000000000000,'pending',95.0,'');
INSERT INTO "alert_events" VALUES(6,1,1700000010000000000,'firing',95.0,'notifies ops');
INSERT INTO "alert_events" VALUES(7,2,1700000010000000000,'firing',95.0,'notifies ops');
INSERT INTO "alert_events" VALUES(8,3,1700000010000000000,'firing',95.0,'notifies ops');
INSERT INTO "alert_events" VALUES(9,4,1700000010000000000,'firing',95.0,'notifies ops');
INSERT INTO "alert_events" VALUES(10,5,1700000010000000000,'firing',95.0,'notifies ops');
INSERT INTO "alert_events" VALUES(11,1,1700000020000000000,'resolved',10.0,'notifies ops');
INSERT INTO "alert_events" VALUES(12,2,1700000100000000000,'acknowledged',95.0,'by ann until 2023-11-14T22:21:40.000000000Z');
INSERT INTO "alert_events" VALUES(13,3,1700000110000000000,'acknowledged',95.0,'by bob');
INSERT INTO "alert_events" VALUES(14,5,1700000310000000000,'escalated',95.0,'step team: neither acknowledged nor resolved within 5m; notifies phone, ops');
INSERT INTO "alert_events" VALUES(15,6,1700000320000000000,'pending',95.0,'');
CREATE TABLE alert_group_members (
            group_id INTEGER NOT NULL REFERENCES alert_groups (id) ON DELETE CASCADE,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            PRIMARY KEY (group_id, alert_id)
        ) WITHOUT ROWID;
CREATE TABLE alert_group_news (
            group_id INTEGER NOT NULL REFERENCES alert_groups (id) ON DELETE CASCADE,
            event_id INTEGER NOT NULL,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            tells TEXT NOT NULL,
            PRIMARY KEY (group_id, event_id)
        ) WITHOUT ROWID;
CREATE TABLE alert_groups (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            channel TEXT NOT NULL,
            labels TEXT NOT NULL,
            due_ns INTEGER,
            sent_ns INTEGER,
            UNIQUE (channel, labels)
        );
CREATE TABLE alerts (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            fingerprint TEXT NOT NULL,
            tagset_id INTEGER NOT NULL,
            rule TEXT NOT NULL,
            severity TEXT NOT NULL,
            category TEXT NOT NULL,
            labels TEXT NOT NULL,
            channels TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('pending', 'firing', 'resolved', 'cancelled')),
            value REAL,
            threshold REAL NOT NULL,
            summary TEXT NOT NULL,
            stale INTEGER NOT NULL DEFAULT 0,
            started_ns INTEGER NOT NULL,
            cause_time_ns INTEGER NOT NULL,
            fired_ns INTEGER,
            notified_ns INTEGER,
            cleared_ns INTEGER,
            resolved_ns INTEGER,
            acknowledged_ns INTEGER,
            acknowledged_by TEXT,
            acknowledged_note TEXT,
            acknowledged_until_ns INTEGER
        , owed TEXT, escalate_from_ns INTEGER, withheld TEXT NOT NULL DEFAULT '{}', source TEXT, annotations TEXT NOT NULL DEFAULT '{}');
INSERT INTO "alerts" VALUES(1,'a31c59a109245e4252c6a87b2e3d56be',0,'cpu','critical','system','{"host": "web-0"}','["ops"]','resolved',10.0,90.0,'CPU of web-0 at 95 %',0,1700000000000000000,1700000020000000000,1700000010000000000,1700000010000000000,NULL,1700000020000000000,NULL,NULL,NULL,NULL,NULL,1700000010000000000,'{}','{"metric":"cpu_usage_percent","labels":{"host":"web-0"},"match":"host%3D%22web-0%22","query":"metric=cpu_usage_percent&agg=last"}','{}');
INSERT INTO "alerts" VALUES(2,'1fbe756632447cce1266467d094ea0a3',1,'cpu','critical','system','{"host": "web-1"}','["ops"]','firing',95.0,90.0,'CPU of web-1 at 95 %',0,1700000000000000000,1700000010000000000,1700000010000000000,1700000010000000000,NULL,NULL,1700000100000000000,'ann','',1700000500000000000,NULL,1700000010000000000,'{}','{"metric":"cpu_usage_percent","labels":{"host":"web-1"},"match":"host%3D%22web-1%22","query":"metric=cpu_usage_percent&agg=last"}','{}');
INSERT INTO "alerts" VALUES(3,'323f4c3eec649334dd23964b6291c83b',2,'cpu','critical','system','{"host": "web-2"}','["ops"]','firing',95.0,90.0,'CPU of web-2 at 95 %',0,1700000000000000000,1700000010000000000,1700000010000000000,1700000010000000000,NULL,NULL,1700000110000000000,'bob','',NULL,NULL,1700000010000000000,'{}','{"metric":"cpu_usage_percent","labels":{"host":"web-2"},"match":"host%3D%22web-2%22","query":"metric=cpu_usage_percent&agg=last"}','{}');
INSERT INTO "alerts" VALUES(4,'43c2b5e03ed4a11411e8b9a3501d28b2',3,'cpu','critical','system','{"host": "web-3"}','["ops"]','firing',95.0,90.0,'CPU of web-3 at 95 %',0,1700000000000000000,1700000010000000000,1700000010000000000,1700000010000000000,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010000000000,'{}','{"metric":"cpu_usage_percent","labels":{"host":"web-3"},"match":"host%3D%22web-3%22","query":"metric=cpu_usage_percent&agg=last"}','{}');
INSERT INTO "alerts" VALUES(5,'b58ec5f007e43946f2d0def49b351de1',4,'cpu','critical','system','{"host": "web-4"}','["ops", "phone"]','firing',95.0,90.0,'CPU of web-4 at 95 %',0,1700000000000000000,1700000010000000000,1700000010000000000,1700000010000000000,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1700000010000000000,'{}','{"metric":"cpu_usage_percent","labels":{"host":"web-4"},"match":"host%3D%22web-4%22","query":"metric=cpu_usage_percent&agg=last"}','{}');
INSERT INTO "alerts" VALUES(6,'b1f33fe081c077dbac260d00f6a3a075',6,'cpu','critical','system','{"host": "web-6"}','[]','pending',95.0,90.0,'CPU of web-6 at 95 %',0,1700000320000000000,1700000320000000000,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{}','{"metric":"cpu_usage_percent","labels":{"host":"web-6"},"match":"host%3D%22web-6%22","query":"metric=cpu_usage_percent&agg=last"}','{}');
CREATE TABLE anomalies (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ns INTEGER NOT NULL,
            series_id INTEGER NOT NULL,
            metric TEXT NOT NULL,
            labels TEXT NOT NULL,
            value REAL NOT NULL,
            score REAL NOT NULL,
            cause TEXT NOT NULL,
            expected_low REAL NOT NULL,
            expected_high REAL NOT NULL,
            reason TEXT NOT NULL
        );
CREATE TABLE bottlenecks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ns INTEGER NOT NULL,
            last_seen_ns INTEGER NOT NULL,
            times_seen INTEGER NOT NULL DEFAULT 1,
            first_moved_ns INTEGER,
            kind TEXT NOT NULL CHECK (kind IN ('changed', 'saturated')),
            service TEXT NOT NULL,
            instance TEXT NOT NULL,
            resource TEXT NOT NULL,
            aspect TEXT NOT NULL,
            metric TEXT NOT NULL,
            value REAL NOT NULL,
            expected REAL NOT NULL,
            basis TEXT NOT NULL,
            confidence REAL NOT NULL,
            gain REAL NOT NULL,
            effect_metric TEXT NOT NULL,
            effect_share REAL NOT NULL,
            effect_from REAL NOT NULL,
            effect_to REAL NOT NULL,
            effect_by TEXT NOT NULL,
            reason TEXT NOT NULL,
            recommendation TEXT NOT NULL,
            evidence TEXT NOT NULL,
            outcome TEXT,
            outcome_time_ns INTEGER,
            outcome_share REAL
        );
CREATE TABLE dashboard (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            delivery TEXT NOT NULL UNIQUE,
            channel TEXT NOT NULL,
            time_ns INTEGER NOT NULL,
            event TEXT NOT NULL,
            body TEXT NOT NULL
        );
CREATE TABLE decisions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            target TEXT NOT NULL,
            decided_ns INTEGER NOT NULL,
            valid_until_ns INTEGER NOT NULL,
            action TEXT NOT NULL CHECK (action IN ('up', 'down', 'hold')),
            current INTEGER,
            desired INTEGER,
            recommended INTEGER,
            reason TEXT NOT NULL,
            limited_by TEXT NOT NULL,
            inputs TEXT NOT NULL
        );
CREATE TABLE deploys (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ns INTEGER NOT NULL,
            service TEXT NOT NULL,
            version TEXT NOT NULL,
            baseline TEXT NOT NULL,
            canary TEXT NOT NULL,
            labels TEXT NOT NULL,
            author TEXT NOT NULL,
            note TEXT NOT NULL,
            recorded_ns INTEGER NOT NULL,
            UNIQUE (service, version, time_ns)
        );
INSERT INTO "deploys" VALUES(1,1700000000000000000,'shop','1.4','','','{}','','',1700000000000000000);
CREATE TABLE digests (
            channel TEXT PRIMARY KEY,
            sent_ns INTEGER NOT NULL,
            event_id INTEGER NOT NULL
        ) WITHOUT ROWID;
CREATE TABLE escalations (
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            step TEXT NOT NULL,
            time_ns INTEGER NOT NULL,
            PRIMARY KEY (alert_id, step)
        ) WITHOUT ROWID;
INSERT INTO "escalations" VALUES(5,'team',1700000310000000000);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('instance','f5b165224a58b791df6af1d8303e61cd');
CREATE TABLE notification_alerts (
            notification_id INTEGER NOT NULL REFERENCES notifications (id) ON DELETE CASCADE,
            alert_id INTEGER NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
            events TEXT NOT NULL,
            PRIMARY KEY (notification_id, alert_id)
        ) WITHOUT ROWID;
CREATE TABLE notifications (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            delivery TEXT NOT NULL UNIQUE,
            channel TEXT NOT NULL,
            alert_id INTEGER REFERENCES alerts (id) ON DELETE CASCADE,
            event TEXT NOT NULL,
            body TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            next_attempt_ns INTEGER NOT NULL,
            last_attempt_ns INTEGER,
            last_status INTEGER,
            last_error TEXT,
            delivered_ns INTEGER,
            dead_ns INTEGER
        , group_id INTEGER);
INSERT INTO "notifications" VALUES(1,'efa14f3491fe66c002c381c7681686dc','ops',1,'firing','{"version":1,"delivery":"efa14f3491fe66c002c381c7681686dc","event":"firing","channel":"ops","alert":{"id":1,"fingerprint":"a31c59a109245e4252c6a87b2e3d56be","rule":"cpu","severity":"critical","category":"system","state":"firing","labels":{"host":"web-0"},"value":95.0,"threshold":90.0,"summary":"CPU of web-0 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":null}}',1700000010000000000,0,1700000010000000000,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "notifications" VALUES(2,'45bae93df225bfa79bd3e9f9b846b41e','ops',2,'firing','{"version":1,"delivery":"45bae93df225bfa79bd3e9f9b846b41e","event":"firing","channel":"ops","alert":{"id":2,"fingerprint":"1fbe756632447cce1266467d094ea0a3","rule":"cpu","severity":"critical","category":"system","state":"firing","labels":{"host":"web-1"},"value":95.0,"threshold":90.0,"summary":"CPU of web-1 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":null}}',1700000010000000000,0,1700000010000000000,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "notifications" VALUES(3,'dc52d7392d2e865bb1b654794579ed55','ops',3,'firing','{"version":1,"delivery":"dc52d7392d2e865bb1b654794579ed55","event":"firing","channel":"ops","alert":{"id":3,"fingerprint":"323f4c3eec649334dd23964b6291c83b","rule":"cpu","severity":"critical","category":"system","state":"firing","labels":{"host":"web-2"},"value":95.0,"threshold":90.0,"summary":"CPU of web-2 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":null}}',1700000010000000000,0,1700000010000000000,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "notifications" VALUES(4,'6300ba342558208257789bc1912f6500','ops',4,'firing','{"version":1,"delivery":"6300ba342558208257789bc1912f6500","event":"firing","channel":"ops","alert":{"id":4,"fingerprint":"43c2b5e03ed4a11411e8b9a3501d28b2","rule":"cpu","severity":"critical","category":"system","state":"firing","labels":{"host":"web-3"},"value":95.0,"threshold":90.0,"summary":"CPU of web-3 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":null}}',1700000010000000000,0,1700000010000000000,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "notifications" VALUES(5,'b82faa00ad7d99a0bcbe51d2db5cc760','ops',5,'firing','{"version":1,"delivery":"b82faa00ad7d99a0bcbe51d2db5cc760","event":"firing","channel":"ops","alert":{"id":5,"fingerprint":"b58ec5f007e43946f2d0def49b351de1","rule":"cpu","severity":"critical","category":"system","state":"firing","labels":{"host":"web-4"},"value":95.0,"threshold":90.0,"summary":"CPU of web-4 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":null}}',1700000010000000000,0,1700000010000000000,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "notifications" VALUES(6,'29ac4a2fddbdddbd6d342a850d797bd9','ops',1,'resolved','{"version":1,"delivery":"29ac4a2fddbdddbd6d342a850d797bd9","event":"resolved","channel":"ops","alert":{"id":1,"fingerprint":"a31c59a109245e4252c6a87b2e3d56be","rule":"cpu","severity":"critical","category":"system","state":"resolved","labels":{"host":"web-0"},"value":10.0,"threshold":90.0,"summary":"CPU of web-0 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":"2023-11-14T22:13:40.000000000Z"}}',1700000020000000000,0,1700000020000000000,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "notifications" VALUES(7,'f3ba7bb230c3b95cc79e4a727689d96a','phone',5,'escalated','{"version":1,"delivery":"f3ba7bb230c3b95cc79e4a727689d96a","event":"escalated","channel":"phone","alert":{"id":5,"fingerprint":"b58ec5f007e43946f2d0def49b351de1","rule":"cpu","severity":"critical","category":"system","state":"firing","labels":{"host":"web-4"},"value":95.0,"threshold":90.0,"summary":"CPU of web-4 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":null}}',1700000310000000000,0,1700000310000000000,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "notifications" VALUES(8,'8caa73b1a765454b08e8266e5983b5af','ops',5,'escalated','{"version":1,"delivery":"8caa73b1a765454b08e8266e5983b5af","event":"escalated","channel":"ops","alert":{"id":5,"fingerprint":"b58ec5f007e43946f2d0def49b351de1","rule":"cpu","severity":"critical","category":"system","state":"firing","labels":{"host":"web-4"},"value":95.0,"threshold":90.0,"summary":"CPU of web-4 at 95 %","annotations":{},"stale":false,"started_at":"2023-11-14T22:13:20.000000000Z","fired_at":"2023-11-14T22:13:30.000000000Z","resolved_at":null}}',1700000310000000000,0,1700000310000000000,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE rules_in_force (name TEXT PRIMARY KEY, looks_at TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "rules_in_force" VALUES('cpu','["cpu_usage_percent", [], "", null]');
CREATE TABLE scale_histories (
            target TEXT PRIMARY KEY,
            desired INTEGER,
            up_ns INTEGER,
            down_ns INTEGER,
            recommendations TEXT NOT NULL
        );
CREATE TABLE silences (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            matchers TEXT NOT NULL,
            start_ns INTEGER NOT NULL,
            end_ns INTEGER NOT NULL,
            author TEXT NOT NULL,
            note TEXT NOT NULL,
            created_ns INTEGER NOT NULL
        );
INSERT INTO "silences" VALUES(1,'[["host", "=", "web-3"]]',1700000100000000000,1700005000000000000,'ann','',1700000100000000000);
CREATE TABLE tokens (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            sha256 TEXT NOT NULL UNIQUE,
            settings TEXT NOT NULL,
            created_ns INTEGER NOT NULL,
            revoked_ns INTEGER
        );
CREATE TABLE withheld (channel TEXT NOT NULL, rule TEXT NOT NULL, event TEXT NOT NULL);
CREATE UNIQUE INDEX alerts_open ON alerts (rule, fingerprint)
            WHERE state IN ('pending', 'firing');
CREATE INDEX alerts_closed ON alerts (rule, resolved_ns) WHERE state = 'resolved';
CREATE INDEX alerts_state ON alerts (state, id);
CREATE INDEX alert_events_of ON alert_events (alert_id, id);
CREATE INDEX notifications_waiting ON notifications (channel, alert_id, id)
            WHERE delivered_ns IS NULL AND dead_ns IS NULL;
CREATE INDEX notifications_of ON notifications (alert_id, id);
CREATE INDEX decisions_of ON decisions (target, id);
CREATE INDEX silences_end ON silences (end_ns);
CREATE INDEX alerts_owed ON alerts (id) WHERE owed IS NOT NULL;
CREATE INDEX alerts_of ON alerts (fingerprint, id);
CREATE INDEX notifications_recent ON notifications (channel, created_ns);
CREATE INDEX withheld_of ON withheld (channel);
CREATE INDEX anomalies_time ON anomalies (time_ns);
CREATE INDEX anomalies_metric ON anomalies (metric, id);
CREATE UNIQUE INDEX tokens_valid ON tokens (name) WHERE revoked_ns IS NULL;
CREATE UNIQUE INDEX bottlenecks_open ON bottlenecks (service, resource) WHERE outcome IS NULL;
CREATE INDEX bottlenecks_time ON bottlenecks (time_ns);
CREATE INDEX alert_groups_due ON alert_groups (due_ns);
CREATE INDEX alert_group_news_of ON alert_group_news (alert_id);
CREATE INDEX alert_group_members_of ON alert_group_members (alert_id);
CREATE INDEX notification_alerts_of ON notification_alerts (alert_id);
CREATE INDEX notifications_waiting_group ON notifications (channel, group_id, id)
            WHERE group_id IS NOT NULL AND delivered_ns IS NULL AND dead_ns IS NULL;
CREATE INDEX dashboard_of ON dashboard (channel, id);
CREATE INDEX notifications_next ON notifications (channel, id) WHERE delivered_ns IS NULL AND dead_ns IS NULL;
CREATE INDEX alerts_acknowledged ON alerts (acknowledged_until_ns)
            WHERE state IN ('pending', 'firing') AND acknowledged_until_ns IS NOT NULL;
CREATE INDEX deploys_time ON deploys (time_ns);
CREATE INDEX deploys_of ON deploys (service, time_ns);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('alerts',6);
INSERT INTO "sqlite_sequence" VALUES('alert_events',15);
INSERT INTO "sqlite_sequence" VALUES('notifications',8);
INSERT INTO "sqlite_sequence" VALUES('silences',1);
INSERT INTO "sqlite_sequence" VALUES('deploys',1);
COMMIT;
