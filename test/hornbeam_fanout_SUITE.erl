%% SPDX-License-Identifier: Apache-2.0
%% What is published reaches attached sessions: which, how often, in which order, and how much
%% waits for those that are slow. Plain processes stand for the sessions.
-module(hornbeam_fanout_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([text_and_binary/1]).
-export([what_cannot_be_sent/1]).
-export([attached_comes_first_and_once/1]).
-export([patterns/1]).
-export([once_however_many_match/1]).
-export([counted_with_all_others/1]).
-export([attached_again/1]).
-export([detached/1]).
-export([detached_with_frames_that_wait/1]).
-export([bad_patterns/1]).
-export([forgotten/1]).
-export([connection_ends/1]).
-export([streams_of_one_connection/1]).
-export([in_order/1]).
-export([attach_and_detach_hold_at_once/1]).
-export([too_slow_is_closed/1]).
-export([too_slow_loses_the_oldest/1]).
-export([goes_on_when_taken/1]).
-export([large_frames_wait_by_their_bytes/1]).
-export([larger_than_the_bound/1]).
-export([each_attachment_has_its_bound/1]).
-export([no_message_for_a_frame_that_is_taken/1]).
-export([taken_and_queued_at_once/1]).
-export([crash/1]).
-export([crash_of_the_peers/1]).
-export([backlog_is_shed/1]).
-export([publishers_wait/1]).
-export([five_thousand/1]).
-export([across_nodes/1]).
-export([node_that_goes_and_comes/1]).
-export([sessions_of_a_worker/1]).

%% Called on other nodes.
-export([attach_quick/1]).
-export([attach_quick/2]).
-export([publish_in_order/2]).
-export([crash_of/1]).

%% Frames of any session's mailbox that are not taken (hornbeam_fanout_window).
-define(WINDOW, 16).
-define(LOW, 8).
-define(MIB, 1048576).

all() ->
    [
        text_and_binary,
        what_cannot_be_sent,
        attached_comes_first_and_once,
        patterns,
        once_however_many_match,
        counted_with_all_others,
        attached_again,
        detached,
        detached_with_frames_that_wait,
        bad_patterns,
        forgotten,
        connection_ends,
        streams_of_one_connection,
        in_order,
        attach_and_detach_hold_at_once,
        too_slow_is_closed,
        too_slow_loses_the_oldest,
        goes_on_when_taken,
        large_frames_wait_by_their_bytes,
        larger_than_the_bound,
        each_attachment_has_its_bound,
        no_message_for_a_frame_that_is_taken,
        taken_and_queued_at_once,
        crash,
        crash_of_the_peers,
        backlog_is_shed,
        publishers_wait,
        five_thousand,
        across_nodes,
        node_that_goes_and_comes,
        sessions_of_a_worker
    ].

init_per_testcase(_, Config) ->
    _ = application:stop(hornbeam),
    {ok, _} = application:ensure_all_started(hornbeam),
    ok = hornbeam_test_log:start(),
    hornbeam_test_server:new_folder(Config).

end_per_testcase(_, _) ->
    ok = hornbeam_test_log:stop(),
    _ = application:stop(hornbeam),
    ok.

%% What the application's message is to the client.
text_and_binary(_) ->
    Key = attach_quick(<<"a">>),
    Blobs = [
        {<<131, 109, 5:32, "caf", 16#C3, 16#A9>>, {text, <<"café"/utf8>>}},
        {<<131, 77, 5:32, 8, "bytes">>, {binary, <<"bytes">>}},
        {<<131, 109, 0:32>>, {text, <<>>}},
        {<<131, 77, 0:32, 0>>, {binary, <<>>}},
        %% A binary of Erlang that went through Python.
        {<<131, 109, 1:32, 255>>, {binary, <<255>>}},
        {hornbeam_test_session:text(binary:copy(<<"x">>, 126)),
         {text, binary:copy(<<"x">>, 126)}},
        {hornbeam_test_session:text(binary:copy(<<"x">>, 65536)),
         {text, binary:copy(<<"x">>, 65536)}}
    ],
    [?assertEqual({ok, 1}, publish_blob(<<"a">>, Blob)) || {Blob, _} <- Blobs],
    ?assertEqual(1, publish(<<"a">>, <<"caf\303\251">>)),
    ?assertEqual(1, publish(<<"a">>, <<"caf\351">>)),
    ?assertEqual([attached] ++ [Event || {_, Event} <- Blobs] ++
                     [{text, <<"café"/utf8>>}, {binary, <<"caf\351">>}],
                 hornbeam_test_session:await_seen(Key, 1 + length(Blobs) + 2)).

%% It reaches no session and is not counted; the log has it once for each topic.
what_cannot_be_sent(_) ->
    Key = attach_quick(<<"#">>),
    Blobs = [
        <<131, 97, 5>>,
        <<131, 106>>,
        <<131, 77, 1:32, 4, 16#F0>>,
        <<131, 109, 5:32, "four">>,
        <<131, 109, 3:32, "four">>,
        term_to_binary(binary:copy(<<"x">>, 1000), [compressed]),
        <<>>
    ],
    [?assertEqual({ok, 0}, publish_blob(<<"a">>, Blob)) || Blob <- Blobs],
    [?assertEqual(0, publish(<<"b">>, Term)) || Term <- [5, "text", {<<"a">>}, <<1:4>>]],
    ?assertEqual(1, publish(<<"a">>, <<"good">>)),
    ?assertEqual([attached, {text, <<"good">>}], hornbeam_test_session:await_seen(Key, 2)),
    ?assertEqual([#{what => message_not_sendable, topic => Topic} || Topic <- [<<"a">>, <<"b">>]],
                 hornbeam_test_log:reports(message_not_sendable)),
    %% So many topics and no more.
    [0 = publish(<<"t:", (integer_to_binary(N))/binary>>, N) || N <- lists:seq(1, 200)],
    _ = hornbeam_fanout:info(),
    ?assertEqual(100, length(hornbeam_test_log:reports(message_not_sendable))).

attached_comes_first_and_once(_) ->
    Key = hornbeam_test_session:start(quick),
    [ok = hornbeam_fanout:attach(Key, Pattern, close, 1) || Pattern <- [<<"a">>, <<"b">>]],
    1 = publish(<<"b">>, <<"m">>),
    ?assertEqual([attached, {text, <<"m">>}], hornbeam_test_session:await_seen(Key, 2)).

%% The patterns of sessions are those of all subscribers.
patterns(_) ->
    Key = hornbeam_test_session:start(quick),
    [begin
         ok = hornbeam_fanout:attach(Key, Pattern, close, 1),
         Reached = [Topic || Topic <- Matching ++ Others, publish(Topic, <<"m">>) =:= 1],
         ?assertEqual({Pattern, Matching}, {Pattern, Reached}),
         ?assert(hornbeam_fanout:detach(Key, Pattern)),
         ?assertEqual({Pattern, []}, {Pattern, hornbeam_fanout_counts:shapes()})
     end || {Pattern, Matching, Others} <- [
         {<<"a:b">>, [<<"a:b">>], [<<"a/b">>, <<"a">>]},
         {<<"a:*">>, [<<"a:b">>, <<"a/b">>], [<<"a">>, <<"a:b:c">>]},
         {<<"a:#">>, [<<"a">>, <<"a:b:c">>], [<<"b">>]}
     ]],
    %% Each of the seven was sent, and an `attached' before those of each pattern.
    ?assertEqual(5 + 3, length(hornbeam_test_session:await_seen(Key, 5 + 3))).

%% Each attachment counts, but the session gets one.
once_however_many_match(_) ->
    Both = hornbeam_test_session:start(quick),
    [ok = hornbeam_fanout:attach(Both, Pattern, close, 1)
     || Pattern <- [<<"a:b">>, <<"a:*">>, <<"#">>]],
    One = attach_quick(<<"a:*">>),
    ?assertEqual(4, publish(<<"a:b">>, <<"first">>)),
    ?assertEqual(3, publish(<<"a:c">>, <<"second">>)),
    ?assertEqual(1, publish(<<"c">>, <<"third">>)),
    ?assertEqual([attached, {text, <<"first">>}, {text, <<"second">>}, {text, <<"third">>}],
                 hornbeam_test_session:await_seen(Both, 4)),
    ?assertEqual([attached, {text, <<"first">>}, {text, <<"second">>}],
                 hornbeam_test_session:await_seen(One, 3)).

%% Beside processes, and workers, which count each subscription.
counted_with_all_others(Config) ->
    Port = hornbeam_test_services:start(Config),
    [<<"ok True">> = hornbeam_test_services:call(Port, "subscribe", "(b'a:*',)") || _ <- [1, 2]],
    ok = hornbeam_pubsub:subscribe(<<"a:b">>),
    Keys = [attach_quick(<<"a:b">>) || _ <- lists:seq(1, 10)],
    ?assertEqual(<<"ok 13">>,
                 hornbeam_test_services:call(Port, "publish", "(b'a:b', blob(b'm'))")),
    [?assertEqual([attached, {text, <<"m">>}], hornbeam_test_session:await_seen(Key, 2))
     || Key <- Keys],
    %% One that no process can decode is refused as a whole.
    Unknown = <<"hornbeam_fanout_no_such_", "atom">>,
    ?assertEqual({error, {unknown_atom, #{text => Unknown}}},
                 publish_blob(<<"a:b">>, <<131, 119, (byte_size(Unknown)), Unknown/binary>>)),
    ok = hornbeam:stop().

%% It changes the bound, and counts once.
attached_again(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"a">>, drop_oldest, 1000),
    ok = hornbeam_fanout:attach(Key, <<"a">>, close, 1),
    ?assertMatch(#{sessions := 1, attachments := 1, patterns := 1}, hornbeam_fanout:info()),
    [?assertEqual(1, publish(<<"a">>, <<"m">>)) || _ <- lists:seq(1, ?WINDOW + 2)],
    ?assertEqual(0, publish_when_handed_out(<<"a">>, <<"m">>)),
    ?assertEqual(overflow, lists:last(hornbeam_test_session:await_seen(Key, ?WINDOW + 2))).

detached(_) ->
    Key = hornbeam_test_session:start(quick),
    [ok = hornbeam_fanout:attach(Key, Pattern, close, 1) || Pattern <- [<<"a">>, <<"a:*">>]],
    ?assertNot(hornbeam_fanout:detach(Key, <<"b">>)),
    ?assertNot(hornbeam_fanout:detach(hornbeam_test_session:start(quick), <<"a">>)),
    ?assert(hornbeam_fanout:detach(Key, <<"a">>)),
    ?assertNot(hornbeam_fanout:detach(Key, <<"a">>)),
    ?assertNot(hornbeam_fanout:detach(Key, <<"#:a">>)),
    ?assertEqual(0, publish(<<"a">>, <<"m">>)),
    ?assertEqual(1, publish(<<"a:b">>, <<"m">>)),
    ?assertEqual([attached, {text, <<"m">>}], hornbeam_test_session:await_seen(Key, 2)),
    ?assert(hornbeam_fanout:detach(Key, <<"a:*">>)),
    assert_nothing_left().

%% What was published while it was attached still comes.
detached_with_frames_that_wait(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"a">>, close, 100),
    Texts = publish_numbers(<<"a">>, ?WINDOW + 20),
    ?assert(hornbeam_fanout:detach(Key, <<"a">>)),
    0 = publish(<<"a">>, <<"later">>),
    take_all(Key, ?WINDOW + 20),
    ?assertEqual([attached | Texts], hornbeam_test_session:seen(Key)),
    hornbeam_test_wait:until(fun() -> maps:get(sessions, hornbeam_fanout:info()) =:= 0 end),
    assert_nothing_left().

bad_patterns(_) ->
    Key = hornbeam_test_session:start(quick),
    [?assertEqual({error, {invalid_pattern, #{pattern => Pattern}}},
                  hornbeam_fanout:attach(Key, Pattern, close, 1))
     || Pattern <- [<<"#:a">>, <<"a:#:b">>]],
    assert_nothing_left().

forgotten(_) ->
    Key = hornbeam_test_session:start(quick),
    [ok = hornbeam_fanout:attach(Key, Pattern, close, 1) || Pattern <- [<<"a">>, <<"a:*">>]],
    Other = attach_quick(<<"a">>),
    ok = hornbeam_fanout:forget(Key),
    ok = hornbeam_fanout:forget(Key),
    ?assertMatch(#{sessions := 1, attachments := 1}, hornbeam_fanout:info()),
    ?assertEqual(1, publish(<<"a">>, <<"m">>)),
    ?assertEqual([attached, {text, <<"m">>}], hornbeam_test_session:await_seen(Other, 2)),
    ?assertEqual([attached], hornbeam_test_session:seen(Key)).

%% One that could not say that it ends, and one that has ended before it was attached.
connection_ends(_) ->
    Key = {Pid, _} = attach_quick(<<"a">>),
    1 = publish(<<"a">>, <<"m">>),
    exit(Pid, kill),
    hornbeam_test_wait:until(fun() -> publish(<<"a">>, <<"m">>) =:= 0 end),
    ok = hornbeam_fanout:attach(Key, <<"a">>, close, 1),
    hornbeam_test_wait:until(fun() -> publish(<<"a">>, <<"m">>) =:= 0 end),
    assert_nothing_left().

%% HTTP/2: sessions that share a connection's process end apart, or all with it.
streams_of_one_connection(_) ->
    One = {Pid, _} = hornbeam_test_session:start(quick, 1),
    Others = [{Pid, 3}, {Pid, 5}],
    [ok = hornbeam_fanout:attach(Key, <<"a">>, close, 1) || Key <- [One | Others]],
    ?assertEqual(3, publish(<<"a">>, <<"m">>)),
    ok = hornbeam_fanout:forget({Pid, 3}),
    _ = hornbeam_fanout:info(),
    ?assertEqual(2, publish(<<"a">>, <<"n">>)),
    _ = hornbeam_test_session:await_seen(One, 8),
    ?assertEqual([attached, {text, <<"m">>}], hornbeam_test_session:seen(One, 3)),
    ?assertEqual([attached, {text, <<"m">>}, {text, <<"n">>}], hornbeam_test_session:seen(One, 5)),
    exit(Pid, kill),
    hornbeam_test_wait:until(fun() -> publish(<<"a">>, <<"m">>) =:= 0 end),
    assert_nothing_left().

%% Of one publisher, to all.
in_order(_) ->
    Keys = [attach_quick(<<"a:", Rest/binary>>, 2000) || Rest <- [<<"b">>, <<"*">>, <<"#">>]],
    Texts = publish_numbers(<<"a:b">>, 1000),
    [?assertEqual([attached | Texts], hornbeam_test_session:await_seen(Key, 1001)) || Key <- Keys].

%% From the reply of attach to the reply of detach, no more and no less, for whoever publishes.
attach_and_detach_hold_at_once(_) ->
    Key = hornbeam_test_session:start(quick),
    [begin
         ok = hornbeam_fanout:attach(Key, <<"a">>, close, 1000),
         1 = publish(<<"a">>, <<"in">>),
         true = hornbeam_fanout:detach(Key, <<"a">>),
         0 = publish(<<"a">>, <<"out">>)
     end || _ <- lists:seq(1, 200)],
    ?assertEqual(lists:append(lists:duplicate(200, [attached, {text, <<"in">>}])),
                 hornbeam_test_session:await_seen(Key, 400)).

%% Exactly where its bound is; what it had in its mailbox stays there.
too_slow_is_closed(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"a">>, close, 5),
    Texts = publish_numbers(<<"a">>, ?WINDOW + 5),
    ?assertMatch(#{sessions := 1, waiting := 5, overflowed := 0}, hornbeam_fanout:info()),
    1 = publish(<<"a">>, <<"too much">>),
    ?assertMatch(#{sessions := 0, attachments := 0, waiting := 0, waiting_bytes := 0,
                   overflowed := 1}, hornbeam_fanout:info()),
    ?assertEqual([attached] ++ lists:sublist(Texts, ?WINDOW) ++ [overflow],
                 hornbeam_test_session:await_seen(Key, ?WINDOW + 2)),
    %% Nothing is left of it that would trip over what it says late.
    ok = hornbeam_test_session:take(Key, ?WINDOW),
    ok = hornbeam_fanout:forget(Key),
    assert_nothing_left().

too_slow_loses_the_oldest(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"a">>, drop_oldest, 5),
    Texts = publish_numbers(<<"a">>, 100),
    ?assertMatch(#{sessions := 1, waiting := 5, dropped := 79, overflowed := 0},
                 hornbeam_fanout:info()),
    take_all(Key, ?WINDOW + 5),
    ?assertEqual([attached] ++ lists:sublist(Texts, ?WINDOW) ++ lists:nthtail(95, Texts),
                 hornbeam_test_session:seen(Key)),
    %% As before.
    1 = publish(<<"a">>, <<"more">>),
    ?assertEqual({text, <<"more">>},
                 lists:last(hornbeam_test_session:await_seen(Key, ?WINDOW + 7))).

%% The queue goes on at the low mark, not before, and in its order.
goes_on_when_taken(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"a">>, close, 1000),
    Texts = publish_numbers(<<"a">>, 100),
    _ = hornbeam_test_session:await_seen(Key, 1 + ?WINDOW),
    ok = hornbeam_test_session:take(Key, ?WINDOW - ?LOW - 1),
    ?assertMatch(#{waiting := 84}, hornbeam_fanout:info()),
    ok = hornbeam_test_session:take(Key, 1),
    hornbeam_test_wait:until(fun() ->
        maps:get(waiting, hornbeam_fanout:info()) =:= 100 - ?WINDOW - (?WINDOW - ?LOW)
    end),
    take_all(Key, 100 - (?WINDOW - ?LOW)),
    ?assertEqual([attached | Texts], hornbeam_test_session:seen(Key)),
    ?assertMatch(#{waiting := 0, waiting_bytes := 0}, hornbeam_fanout:info()).

%% One of a mebibyte in the mailbox, 15 in the queue, as each has a header: then it is too much.
large_frames_wait_by_their_bytes(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"a">>, close, 1000),
    Data = binary:copy(<<"x">>, ?MIB),
    [1 = publish(<<"a">>, Data) || _ <- lists:seq(1, 16)],
    ?assertEqual([attached, {text, Data}], hornbeam_test_session:await_seen(Key, 2)),
    ?assertMatch(#{waiting := 15}, hornbeam_fanout:info()),
    1 = publish(<<"a">>, Data),
    ?assertMatch(#{sessions := 0, overflowed := 1}, hornbeam_fanout:info()),
    ?assertEqual(overflow, lists:last(hornbeam_test_session:await_seen(Key, 3))).

%% It waits where nothing else does.
larger_than_the_bound(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"a">>, drop_oldest, 1000),
    Data = binary:copy(<<"x">>, 17 * ?MIB),
    [1 = publish(<<"a">>, Text) || Text <- [Data, <<"dropped">>, Data]],
    ?assertMatch(#{waiting := 1, dropped := 1}, hornbeam_fanout:info()),
    take_all(Key, 2),
    ?assertEqual([attached, {text, Data}, {text, Data}], hornbeam_test_session:seen(Key)).

%% One topic may lose messages, while the other one is closed when it would; in between the order
%% is that of all.
each_attachment_has_its_bound(_) ->
    Key = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Key, <<"ticks">>, drop_oldest, 2),
    ok = hornbeam_fanout:attach(Key, <<"orders">>, close, 2),
    _ = publish_numbers(<<"ticks">>, ?WINDOW),
    [1 = publish(Topic, Text)
     || {Topic, Text} <- [{<<"ticks">>, <<"t1">>}, {<<"orders">>, <<"o1">>},
                          {<<"ticks">>, <<"t2">>}, {<<"orders">>, <<"o2">>},
                          {<<"ticks">>, <<"t3">>}]],
    ?assertMatch(#{waiting := 4, dropped := 1, overflowed := 0}, hornbeam_fanout:info()),
    take_all(Key, ?WINDOW + 4),
    ?assertEqual([{text, Text} || Text <- [<<"o1">>, <<"t2">>, <<"o2">>, <<"t3">>]],
                 lists:nthtail(1 + ?WINDOW, hornbeam_test_session:seen(Key))),
    _ = publish_numbers(<<"orders">>, ?WINDOW + 2),
    ?assertMatch(#{overflowed := 0}, hornbeam_fanout:info()),
    1 = publish(<<"orders">>, <<"too much">>),
    ?assertMatch(#{overflowed := 1}, hornbeam_fanout:info()).

%% Sessions that keep up say nothing: the fan-out process gets the publishes alone.
no_message_for_a_frame_that_is_taken(_) ->
    Keys = [attach_quick(<<"a">>) || _ <- lists:seq(1, 10)],
    Fanout = whereis(hornbeam_fanout),
    1 = erlang:trace(Fanout, true, ['receive']),
    [begin
         10 = publish(<<"a">>, <<"m">>),
         [hornbeam_test_session:await_seen(Key, N + 1) || Key <- Keys]
     end || N <- lists:seq(1, 50)],
    1 = erlang:trace(Fanout, false, ['receive']),
    Delivered = erlang:trace_delivered(Fanout),
    receive {trace_delivered, Fanout, Delivered} -> ok end,
    ?assertEqual(50, count_traced(Fanout, 0)).

count_traced(Fanout, Count) ->
    receive {trace, Fanout, 'receive', _} -> count_traced(Fanout, Count + 1)
    after 0 -> Count
    end.

%% Sessions that take while more is queued, as fast as they can: nothing is lost, and nothing waits
%% for a session that has taken all.
taken_and_queued_at_once(_) ->
    Keys = [attach_quick(<<"a">>, 1000000) || _ <- lists:seq(1, 8)],
    Publishers = [spawn_monitor(fun() ->
        [8 = publish(<<"a">>, <<(integer_to_binary(Publisher))/binary, " ",
                                (integer_to_binary(N))/binary>>)
         || N <- lists:seq(1, 5000)]
    end) || Publisher <- [1, 2]],
    [receive {'DOWN', Monitor, process, _, Reason} -> ?assertEqual(normal, Reason) end
     || {_, Monitor} <- Publishers],
    [begin
         [attached | Seen] = hornbeam_test_session:await_seen(Key, 10001),
         [?assertEqual(lists:seq(1, 5000), numbers_of(Publisher, Seen))
          || Publisher <- [<<"1">>, <<"2">>]]
     end || Key <- Keys],
    ?assertMatch(#{waiting := 0, waiting_bytes := 0, dropped := 0}, hornbeam_fanout:info()).

numbers_of(Publisher, Seen) ->
    [binary_to_integer(N) || {text, Text} <- Seen, [By, N] <- [binary:split(Text, <<" ">>)],
                             By =:= Publisher].

%% Those who want all are closed, as some may be lost; those who may lose some stay attached, and
%% have room for what they had in their queue.
crash(_) ->
    Closed = hornbeam_test_session:start(slow),
    Kept = hornbeam_test_session:start(slow),
    Both = hornbeam_test_session:start(quick),
    ok = hornbeam_fanout:attach(Closed, <<"a">>, close, 10),
    ok = hornbeam_fanout:attach(Kept, <<"a">>, drop_oldest, 10),
    [ok = hornbeam_fanout:attach(Both, Pattern, Overflow, 1000)
     || {Pattern, Overflow} <- [{<<"a:*">>, close}, {<<"b">>, drop_oldest}]],
    _ = publish_numbers(<<"a">>, ?WINDOW + 10),
    ok = crash_of(hornbeam_fanout),
    [hornbeam_test_wait:until(fun() ->
         lists:last(hornbeam_test_session:seen(Key)) =:= overflow
     end) || Key <- [Closed, Both]],
    ?assertMatch(#{sessions := 1, attachments := 1, waiting := 0}, hornbeam_fanout:info()),
    ?assertEqual(0, publish(<<"a:b">>, <<"m">>)),
    ?assertEqual(0, publish(<<"b">>, <<"m">>)),
    ?assertEqual(1, publish(<<"a">>, <<"after">>)),
    take_all(Kept, ?WINDOW + 1),
    ?assertEqual({text, <<"after">>}, lists:last(hornbeam_test_session:seen(Kept))),
    %% Its monitor is there again.
    exit(element(1, Kept), kill),
    hornbeam_test_wait:until(fun() -> publish(<<"a">>, <<"m">>) =:= 0 end),
    assert_nothing_left().

%% Sessions of the node do not notice.
crash_of_the_peers(_) ->
    Key = attach_quick(<<"a">>),
    ok = crash_of(hornbeam_fanout_peers),
    ?assertEqual(1, publish(<<"a">>, <<"m">>)),
    ?assertEqual([attached, {text, <<"m">>}], hornbeam_test_session:await_seen(Key, 2)).

%% More than can be handed out: bounded, and for each session as if its own queue had been full.
backlog_is_shed(_) ->
    Closed = attach_quick(<<"a">>),
    Kept = hornbeam_test_session:start(slow),
    ok = hornbeam_fanout:attach(Kept, <<"a">>, drop_oldest, 1000),
    Other = attach_quick(<<"b">>),
    ok = sys:suspend(hornbeam_fanout),
    Data = binary:copy(<<" ">>, ?MIB),
    [{ok, 2} = publish_blob(<<"a">>, text([integer_to_binary(N), Data]))
     || N <- lists:seq(1, 80)],
    {ok, 1} = publish_blob(<<"b">>, text("other")),
    ok = sys:resume(hornbeam_fanout),
    ?assertMatch(#{overflowed := 1, sessions := 2}, hornbeam_fanout:info()),
    ?assertEqual([attached, overflow], hornbeam_test_session:seen(Closed)),
    ?assertEqual([attached, {text, <<"other">>}], hornbeam_test_session:await_seen(Other, 2)),
    %% 64 MiB and no more were handed out, of which the last 15 wait behind the first.
    ?assertMatch(#{waiting := 15, dropped := 80 - 16}, hornbeam_fanout:info()),
    take_all(Kept, 16),
    ?assertEqual([18 | lists:seq(66, 80)],
                 [binary_to_integer(string:trim(Text))
                  || {text, Text} <- hornbeam_test_session:seen(Kept)]),
    %% And all is as before.
    1 = publish(<<"a">>, <<"81">>),
    ?assertEqual({text, <<"81">>}, lists:last(hornbeam_test_session:await_seen(Kept, 18))).

%% Publishers of this node are slowed down before anything is shed, the workers' without their
%% Erlang process; those of other topics are not.
publishers_wait(Config) ->
    Port = hornbeam_test_services:start(Config),
    Key = attach_quick(<<"a">>, 100000),
    ok = sys:suspend(hornbeam_fanout),
    [{ok, 1} = publish_blob(<<"a">>, text("m")) || _ <- lists:seq(1, 2000)],
    {task, _, infinity} = hornbeam_services:call(publish, {<<"a">>, text("m")}),
    {ok, 0} = hornbeam_services:call(publish, {<<"b">>, text("m")}),
    0 = publish(<<"b">>, <<"m">>),
    Self = self(),
    Waits = [spawn_link(fun() -> Self ! {self(), Publish()} end) || Publish <- [
        fun() -> publish(<<"a">>, <<"waited">>) end,
        fun() -> hornbeam_test_services:call(Port, "publish", "(b'a', blob(b'm'))") end
    ]],
    ?assertEqual(<<"ok 0">>, hornbeam_test_services:call(Port, "publish", "(b'b', blob(b'm'))")),
    hornbeam_test_wait:until(fun() ->
        process_info(whereis(hornbeam_fanout), message_queue_len) =:= {message_queue_len, 2002}
    end),
    ok = sys:resume(hornbeam_fanout),
    ?assertEqual([1, <<"ok 1">>], [receive {Pid, Result} -> Result end || Pid <- Waits]),
    ?assertEqual(1 + 2002, length(hornbeam_test_session:await_seen(Key, 1 + 2002))),
    ok = hornbeam:stop().

%% One publish to thousands: a short time, one frame in memory for all, and what an attached session
%% costs the node.
five_thousand(_) ->
    Sessions = 5000,
    Keys = [hornbeam_test_session:start(quick) || _ <- lists:seq(1, Sessions)],
    Before = settled_memory(),
    {AttachUs, _} = timer:tc(fun() ->
        [ok = hornbeam_fanout:attach(Key, <<"room:7">>, close, 100) || Key <- Keys]
    end),
    EachBytes = (settled_memory() - Before) / Sessions,
    Data = binary:copy(<<"x">>, ?MIB),
    {PublishUs, _} = timer:tc(fun() ->
        ?assertEqual({ok, Sessions}, publish_blob(<<"room:7">>,
                                                  hornbeam_test_session:text(Data))),
        [hornbeam_test_session:await_seen(Key, 2) || Key <- Keys]
    end),
    ct:pal("attach: ~.1f us, ~b bytes for a session; publish until all have it: ~.1f ms",
           [AttachUs / Sessions, round(EachBytes), PublishUs / 1000]),
    ?assert(EachBytes < 4000, EachBytes),
    %% They all hold it, and it is there once.
    Held = [[Id || {Id, Bytes, _} <- binaries(Pid), Bytes >= ?MIB] || {Pid, _} <- Keys],
    ?assertMatch([[_]], lists:usort([lists:usort(Ids) || Ids <- Held])),
    [exit(Pid, kill) || {Pid, _} <- Keys],
    hornbeam_test_wait:until(fun() -> publish(<<"room:7">>, <<"m">>) =:= 0 end),
    assert_nothing_left().

binaries(Pid) ->
    {binary, Binaries} = process_info(Pid, binary),
    Binaries.

settled_memory() ->
    true = garbage_collect(whereis(hornbeam_fanout)),
    erlang:memory(total).

%% Sessions of another node get a message, once, and are counted; also what is attached later, and
%% not what is detached.
across_nodes(_) ->
    Cluster = {_, [One, Two]} = hornbeam_test_cluster:start(2),
    Keys = [on(Two, ?MODULE, attach_quick, [Pattern, 1000])
            || Pattern <- [<<"a:*">>, <<"a:b">>, <<"#">>]],
    Local = on(One, ?MODULE, attach_quick, [<<"a:b">>]),
    await_count(One, <<"a:b">>, 4),
    await_count(Two, <<"a:b">>, 4),
    ?assertEqual(4, on(One, hornbeam_pubsub, publish, [<<"a:b">>, <<"from one">>])),
    ?assertEqual(4, on(Two, hornbeam_pubsub, publish, [<<"a:b">>, <<"from two">>])),
    Expected = [attached, {text, <<"from one">>}, {text, <<"from two">>}],
    [await_sorted(Two, Key, Expected) || Key <- Keys],
    await_sorted(One, Local, Expected),
    true = on(Two, hornbeam_fanout, detach, [hd(Keys), <<"a:*">>]),
    await_count(One, <<"a:b">>, 3),
    true = on(One, hornbeam_fanout, detach, [Local, <<"a:b">>]),
    await_count(Two, <<"a:b">>, 2),
    ?assertEqual(1, on(One, hornbeam_pubsub, publish, [<<"c">>, <<"m">>])),
    %% In the order of the publisher.
    ok = on(One, ?MODULE, publish_in_order, [<<"d">>, 500]),
    Last = lists:last(Keys),
    hornbeam_test_wait:until(fun() ->
        Seen = on(Two, hornbeam_test_session, seen, [Last]),
        Numbers = [Text || {text, <<"n", Text/binary>>} <- Seen],
        length(Numbers) =:= 500 andalso
            [binary_to_integer(N) || N <- Numbers] =:= lists:seq(1, 500)
    end),
    hornbeam_test_cluster:stop(Cluster).

%% Its sessions count no more; when it has come back, or its process has, they are learnt anew.
node_that_goes_and_comes(_) ->
    Cluster = {_, [One, Two]} = hornbeam_test_cluster:start(2),
    _ = on(Two, ?MODULE, attach_quick, [<<"a:*">>]),
    await_count(One, <<"a:b">>, 1),
    true = on(One, erlang, disconnect_node, [hornbeam_test_cluster:node_of(Two)]),
    await_count(One, <<"a:b">>, 0),
    ?assertEqual([], on(One, hornbeam_fanout_counts, shapes, [])),
    pong = on(One, net_adm, ping, [hornbeam_test_cluster:node_of(Two)]),
    await_count(One, <<"a:b">>, 1),
    [begin
         ok = on(Peer, ?MODULE, crash_of, [hornbeam_fanout_peers]),
         await_count(One, <<"a:b">>, 1),
         %% And what changes from now on is told.
         Key = on(Two, ?MODULE, attach_quick, [<<"a:b">>]),
         await_count(One, <<"a:b">>, 2),
         ok = on(Two, hornbeam_fanout, forget, [Key]),
         await_count(One, <<"a:b">>, 1)
     end || Peer <- [One, Two]],
    %% Of a fan-out process that has crashed, those that it has closed.
    ok = on(Two, ?MODULE, crash_of, [hornbeam_fanout]),
    await_count(One, <<"a:b">>, 0),
    hornbeam_test_cluster:stop(Cluster).

%% The calls: they find the session by its request, while it is accepted and open.
sessions_of_a_worker(Config) ->
    Port = hornbeam_test_services:start(Config),
    #{routes := Routes} = element(2, sys:get_state(hornbeam_test_server:worker_pid(default, 1))),
    {Pid, StreamId} = hornbeam_test_session:start(quick),
    Attach = "(1000000, b'a:*', Atom('drop_oldest'), 5)",
    Call = fun(Function, Args) -> hornbeam_test_services:call(Port, Function, Args) end,
    ?assertEqual(<<"error not_open">>, Call("attach", Attach)),
    true = hornbeam_routes:insert(Routes, 1000000, {Pid, StreamId}, 1 bsl 60),
    ?assertEqual(<<"error not_open">>, Call("attach", Attach)),
    ?assertEqual(<<"error not_open">>, Call("detach", "(1000000, b'a:*')")),
    ok = hornbeam_routes:deliver(Routes, {accept, 1000000, undefined, []}, 65536),
    ?assertEqual(<<"ok True">>, Call("attach", Attach)),
    ?assertEqual(<<"error invalid_pattern">>,
                 Call("attach", "(1000000, b'#:a', Atom('close'), 5)")),
    ?assertEqual(<<"ok 1">>, Call("publish", "(b'a:b', blob(b'm'))")),
    ?assertEqual(<<"ok False">>, Call("detach", "(1000000, b'a:b')")),
    ?assertEqual(<<"ok True">>, Call("detach", "(1000000, b'a:*')")),
    ?assertEqual(<<"ok 0">>, Call("publish", "(b'a:b', blob(b'm'))")),
    [?assertEqual(<<"error unknown_function">>, Call(Function, Args)) || {Function, Args} <- [
        {"attach", "(1000000, b'a', Atom('close'), 0)"},
        {"attach", "(1000000, b'a', Atom('unknown'), 1)"},
        {"attach", "(1000000, b'a', Atom('close'), -1)"},
        {"attach", "(1000000, b'a', Atom('close'), Atom('infinity'))"},
        {"attach", "(1000000, Atom('close'), Atom('close'), 1)"},
        {"attach", "(b'1000000', b'a', Atom('close'), 1)"},
        {"attach", "(1000000, b'a', Atom('close'))"},
        {"detach", "(1000000, 1)"},
        {"detach", "(1000000,)"}
    ]],
    %% A session that ends while it is being attached.
    true = hornbeam_routes:detach(Routes, 1000000),
    ?assertEqual(<<"error not_open">>, Call("attach", Attach)),
    assert_nothing_left(),
    ok = hornbeam:stop().

%%% Internal

attach_quick(Pattern) ->
    attach_quick(Pattern, 100).

attach_quick(Pattern, MaxQueue) ->
    Key = hornbeam_test_session:start(quick),
    ok = hornbeam_fanout:attach(Key, Pattern, close, MaxQueue),
    Key.

publish(Topic, Message) ->
    hornbeam_pubsub:publish(Topic, Message).

publish_blob(Topic, Blob) ->
    hornbeam_pubsub:publish_encoded(Topic, Blob).

text(Text) ->
    hornbeam_test_session:text(iolist_to_binary(Text)).

%% When what was published before is handed out.
publish_when_handed_out(Topic, Message) ->
    _ = hornbeam_fanout:info(),
    publish(Topic, Message).

%% What the session will have seen of it.
publish_numbers(Topic, Count) ->
    Texts = [integer_to_binary(N) || N <- lists:seq(1, Count)],
    [publish(Topic, Text) || Text <- Texts],
    _ = hornbeam_fanout:info(),
    [{text, Text} || Text <- Texts].

%% One by one, as they come.
take_all(_, 0) ->
    ok;
take_all(Key, Count) ->
    hornbeam_test_wait:until(fun() -> hornbeam_test_session:take(Key, 1) =:= ok end),
    take_all(Key, Count - 1).

crash_of(Name) ->
    Pid = whereis(Name),
    exit(Pid, kill),
    hornbeam_test_wait:until(fun() ->
        is_pid(whereis(Name)) andalso whereis(Name) =/= Pid
    end),
    %% Once it answers, its start is over.
    _ = sys:get_state(Name),
    ok.

publish_in_order(Topic, Count) ->
    [1 = publish(Topic, <<"n", (integer_to_binary(N))/binary>>) || N <- lists:seq(1, Count)],
    ok.

assert_nothing_left() ->
    ?assertMatch(#{sessions := 0, attachments := 0, patterns := 0, waiting := 0},
                 hornbeam_fanout:info()),
    ?assertEqual([], hornbeam_fanout_counts:local()),
    ?assertEqual([], hornbeam_fanout_counts:shapes()),
    ?assertEqual([], ets:tab2list(hornbeam_fanout)),
    ?assertEqual({monitors, []}, process_info(whereis(hornbeam_fanout), monitors)).

on(Peer, Module, Function, Args) ->
    hornbeam_test_cluster:call(Peer, Module, Function, Args).

await_count(Peer, Topic, Count) ->
    Subjects = [Topic, [<<"a">>, '*'], ['#']],
    hornbeam_test_wait:until(fun() ->
        element(1, on(Peer, hornbeam_fanout_counts, reach, [Subjects])) =:= Count
    end).

await_sorted(Peer, Key, Expected) ->
    hornbeam_test_wait:until(fun() ->
        lists:sort(on(Peer, hornbeam_test_session, seen, [Key])) =:= lists:sort(Expected)
    end).
