%% SPDX-License-Identifier: Apache-2.0

%% @private The grammar of `Forwarded' (RFC 7239 4) and of the lists in `X-Forwarded-*'.
%%
%% Pure, and for any bytes. Says how the text is made up, not whom to believe: that is
%% {@link hornbeam_proxy}.
-module(hornbeam_forwarded).

%% API
-export([values/1]).
-export([split_last/1]).
-export([pairs/1]).
-export([unquote/1]).

-export_type([pairs/0]).

-type pairs() :: [{Name :: binary(), Value :: binary()}].
%% Parameters of an element, names in lower case.

%% @doc The values between commas, without the space around them.
-spec values(binary()) -> [binary(), ...].
values(Text) ->
    [trim(Part) || Part <- binary:split(Text, <<",">>, [global])].

%% @doc The last element, and what is before its comma.
%%
%% Read from the end, so that no quotation mark that a client has left open swallows what a proxy
%% has added behind it. For well-formed text it makes no difference.
-spec split_last(binary()) -> {Before :: binary(), Element :: binary()}.
split_last(Text) ->
    split_last(Text, byte_size(Text) - 1, outside).

split_last(Text, -1, _) ->
    {<<>>, Text};
split_last(Text, At, State) ->
    case {binary:at(Text, At), State} of
        {$,, outside} ->
            <<Before:At/binary, $,, Element/binary>> = Text,
            {Before, Element};
        {$", outside} ->
            split_last(Text, At - 1, quoted);
        {$", quoted} ->
            Backslashes = backslashes(Text, At - 1, 0),
            split_last(Text, At - 1 - Backslashes, after_backslashes(Backslashes));
        {_, _} ->
            split_last(Text, At - 1, State)
    end.

%% A quotation mark behind an odd number of backslashes is a letter of the text.
after_backslashes(Count) when Count rem 2 =:= 0 -> outside;
after_backslashes(_) -> quoted.

backslashes(Text, At, Count) when At >= 0 ->
    case binary:at(Text, At) of
        $\\ -> backslashes(Text, At - 1, Count + 1);
        _ -> Count
    end;
backslashes(_, _, Count) ->
    Count.

%% @doc The parameters of an element; each may be there once.
-spec pairs(binary()) -> {ok, pairs()} | error.
pairs(Element) ->
    pairs(trim(Element), []).

%% @doc The text of a quoted string; what is not quoted is its own text.
-spec unquote(binary()) -> {ok, binary()} | error.
unquote(<<$", Quoted/binary>>) ->
    case quoted(Quoted, <<>>) of
        {ok, Text, <<>>} -> {ok, Text};
        _ -> error
    end;
unquote(Text) ->
    {ok, Text}.

%%% Internal

pairs(<<>>, Pairs) ->
    {ok, Pairs};
pairs(<<";", Rest/binary>>, Pairs) ->
    pairs(trim(Rest), Pairs);
pairs(Text, Pairs) ->
    case pair(Text) of
        {ok, Name, Value, Rest} ->
            case lists:keymember(Name, 1, Pairs) of
                false -> pairs(Rest, [{Name, Value} | Pairs]);
                true -> error
            end;
        error ->
            error
    end.

pair(Text) ->
    case binary:split(Text, <<"=">>) of
        [Name, <<$", Quoted/binary>>] -> named(Name, quoted(Quoted, <<>>));
        [Name, Value] -> named(Name, plain(Value));
        [_] -> error
    end.

named(Name, {ok, Value, Rest}) ->
    case is_token(Name) of
        true -> {ok, string:lowercase(Name), Value, Rest};
        false -> error
    end;
named(_, error) ->
    error.

%% More than a token: addresses with a port or brackets are sent without quotation marks, too.
plain(Text) ->
    [Value | Rest] = binary:split(Text, <<";">>),
    Trimmed = trim(Value),
    case Trimmed =/= <<>> andalso binary:match(Trimmed, [<<"\"">>, <<" ">>, <<"\t">>]) of
        nomatch -> {ok, Trimmed, trim(iolist_to_binary(Rest))};
        _ -> error
    end.

quoted(<<$", Rest/binary>>, Text) ->
    case trim(Rest) of
        <<>> -> {ok, Text, <<>>};
        <<";", Others/binary>> -> {ok, Text, trim(Others)};
        _ -> error
    end;
quoted(<<$\\, C, Rest/binary>>, Text) ->
    quoted(Rest, <<Text/binary, C>>);
quoted(<<C, Rest/binary>>, Text) when C =/= $\\ ->
    quoted(Rest, <<Text/binary, C>>);
quoted(_, _) ->
    error.

is_token(<<>>) -> false;
is_token(Text) -> is_token_text(Text).

is_token_text(<<C, Rest/binary>>)
        when C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9; C =:= $!; C =:= $#; C =:= $$;
             C =:= $%; C =:= $&; C =:= $'; C =:= $*; C =:= $+; C =:= $-; C =:= $.; C =:= $^;
             C =:= $_; C =:= $`; C =:= $|; C =:= $~ ->
    is_token_text(Rest);
is_token_text(Rest) ->
    Rest =:= <<>>.

%% Not by the module string: these bytes need not be UTF-8.
trim(<<C, Rest/binary>>) when C =:= $\s; C =:= $\t -> trim(Rest);
trim(<<>>) -> <<>>;
trim(Text) -> trim_end(Text, byte_size(Text) - 1).

trim_end(Text, At) ->
    case binary:at(Text, At) of
        C when C =:= $\s; C =:= $\t -> trim_end(Text, At - 1);
        _ -> binary:part(Text, 0, At + 1)
    end.
