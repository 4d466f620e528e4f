"""Fault injection in real processes: kills, freezes, full disks, crashed servers.

:mod:`tests.faults.oracle` counts what was lost or doubled. ``README.md`` says how to run the suite
and what it measured.

The fault cases by number, each with the test that provokes it. A case in another folder needs no
process to be killed, and is tested beside the code.

 1  a receiver killed at random               test_kills
 2  killed between commit and answer          test_failpoints (group_commit.after_commit)
 3  killed between commit and wake            test_failpoints (wake.before_send)
 4  power cut                                 test_disk, receiver/database/test_engine
 5  a flush fails                             test_disk, receiver/inbox/test_group_commit
 6  a flush takes 8 s                         test_disk
 7  disk full                                 test_disk; a full spool: receiver/inbox/test_spool
 8  broker absent at the start                test_broker
 9  broker frozen                             test_broker
10  broker restarted a hundred times          test_broker
11  broker flushed                            test_broker
12  broker connection half open               test_broker
13  broker out of memory                      test_broker
14  worker, sender or a pool process killed   test_failpoints, test_kills
15  killed between the broker's pop and       test_failpoints (broker.after_pop)
    the record of the message
16  poison event                              test_poison
17  frozen past its lease, then thawed        test_signals, worker/outbox/test_leases
18  SIGTERM under load                        test_signals
19  one message ten times at once             worker/handling/test_handle
20  PostgreSQL crashes, sessions are killed   test_database
21  database frozen                           receiver/web/test_outage
22  ten minutes without database              test_database; without a spool: web/test_outage
23  SQLite locked by another writer           receiver/database/test_engine, web/test_refusals
24  the clock jumps                           worker/outbox/test_leases, worker/outbox/test_sweep
25  a confirmation hangs or fails             worker/confirmation/test_confirm
26  a confirmation is refused                 worker/confirmation/test_confirm
27  provider's 429                            worker/confirmation/test_confirm,
                                              worker/outbox/test_call_budgets
28  Slack's 429                               worker/delivery/test_deliver
29  Slack's refusals                          worker/delivery/test_deliver,
                                              worker/destinations/test_slack
30  an answer is lost                         worker/delivery/test_deliver,
                                              worker/destinations/test_email_answers
31  one of three recipients refused           worker/destinations/test_email_answers
32  a hundred equal events at once            receiver/web/test_webhooks
33  a known id with another body              worker/handling/test_handle,
                                              receiver/inbox/test_spool
34  every sequence of an order's events       worker/orders/test_store,
                                              worker/orders/test_order_machine
47  memory after a million events             test_soak
48  a database that takes no writes           test_database_trouble
49  one refused item among many               test_refusals, worker/delivery/test_splitting
50  an answer of something else               worker/delivery/test_foreign_answers,
                                              worker/destinations/test_slack
51  the same body again long after            receiver/inbox/test_store
52  stopped while the database is frozen      test_database_trouble
53  16 destinations that hang                 worker/tasks/test_isolation
54  a batch that is too slow                  worker/handling/test_handle
55  a spool file locked or damaged            worker/cli/test_keys, receiver/inbox/test_spool
58  parts meet a schema that does not fit     test_schema_skew, worker/schema/test_migrate
59  standard error that nobody reads          end_to_end/test_up, receiver/test_log_writer
60  a spool or a disk that is full            test_database_trouble, receiver/inbox/test_spool
61  the clock set ahead, and back             worker/outbox/test_clock_jumps
62  suspended between claim and call          worker/confirmation/test_confirm
65  names that nobody resolves                worker/tasks/test_isolation,
                                              worker/http/test_blocking
"""
